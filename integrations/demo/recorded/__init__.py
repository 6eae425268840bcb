"""Recorded outcomes of three real local models on generated tasks; see README.md."""
