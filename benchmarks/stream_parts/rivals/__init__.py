"""Learners that others would use in the place of ours, each in a file of its own."""
