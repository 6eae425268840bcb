"""Does a router earn its place? Metrics, baselines, the gate and off-policy estimates.

    curve      Curve: what a policy does at each cost weight, prompt by prompt
    hull       the non-decreasing convex hull, AIQ, parity: exact and batched
    metrics    one policy's figures with paired bootstrap intervals
    quality    calibration of success probabilities, the oracle and its noise
    dial       is the cost weight a working dial
    baselines  what any router has to beat
    compare    baselines on the random and the leave-families-out split, side by side
    gate       promote or not, and in words why
    offpolicy  the value of a policy from another policy's logs
    score      the figures of a checkpoint from the file of its choices

Nothing here needs torch; polars reads files, scikit-learn fits the learned baselines.
"""
