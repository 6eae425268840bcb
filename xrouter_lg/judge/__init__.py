"""Does a router earn its place? Asked about recorded prompts, and about live traffic.

    run        a checkpoint on an outcome table: choices, figures, the gate's verdict
    chooser    what a checkpoint of each kind does with the prompts of a table (`choosers`,
               `tool_chooser`, `estimates`)
    choices    the file of its choices; `score` has the figures that follow from one
    halves     which prompts are judged, and which were learned from
    baselines  what any router has to beat
    gate       promote or not, and in words why
    report     the page, and the JSON beside it
    traffic    live requests: canary arms, shadows, off-policy estimates, drift

Nothing here needs torch; polars reads files, scikit-learn fits the learned baselines.
"""
