"""Outside systems xrouter_lg works with, one folder each, run from a checkout."""
