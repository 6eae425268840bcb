"""The whole loop on recorded answers of real models: app, traces, training, the same app again.

``python -m integrations.demo`` (or ``make demo``); see ``docs/demo.md``.
"""
