"""The outcome table: one prompt × one model, with score, tokens, cost and latency."""

from xrouter_lg.outcomes.schema import OUTCOME_COLUMNS, PROMPT_COLUMNS, OutcomeError, prompt_key
from xrouter_lg.outcomes.summary import Summary
from xrouter_lg.outcomes.table import OutcomeTable
from xrouter_lg.outcomes.validate import Problem, Report

__all__ = [
    "OUTCOME_COLUMNS",
    "PROMPT_COLUMNS",
    "OutcomeError",
    "OutcomeTable",
    "Problem",
    "Report",
    "Summary",
    "prompt_key",
]
