"""From traces to a verdict: outcomes, scores, training, judging. Runs from a checkout."""
