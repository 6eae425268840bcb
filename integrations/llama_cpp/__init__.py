"""Real local GGUF models behind llama.cpp's OpenAI-compatible server.

Importing this package loads neither xllamacpp nor httpx: each module imports what it needs.
"""
