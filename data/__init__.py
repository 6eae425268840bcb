"""Data that comes with a checkout."""
