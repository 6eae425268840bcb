"""OpenAI's words on the wire, read and written."""
