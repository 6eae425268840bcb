"""What `server.py` measures with."""
