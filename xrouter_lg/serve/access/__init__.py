"""Who may ask, how often, and for how much."""
