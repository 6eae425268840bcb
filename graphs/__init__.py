"""Graphs to copy."""
