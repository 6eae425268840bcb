"""Trained checkpoints behind vLLM: a launcher, adapters that are swapped while it serves.

See README.md in this folder; the app's side is ``xrouter_lg.policies.slots.remote``.
"""
