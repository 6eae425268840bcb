"""What is spent, how good it is and why, on one page; see docs/dashboard.md."""
