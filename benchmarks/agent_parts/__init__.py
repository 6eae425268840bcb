"""Recorded runs of a tool agent over two local models, for ``python -m benchmarks.agents``."""
