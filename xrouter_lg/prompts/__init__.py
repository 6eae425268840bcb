"""The one place that renders what a router model reads and parses what it says."""
