"""The router behind OpenAI's HTTP interface: ``xrouter serve --pool pool.yaml``."""
