"""The outcome table: one prompt × one model, with score, tokens, cost and latency."""

from training.outcomes.matrix import Matrix
from training.outcomes.schema import OUTCOME_COLUMNS, PROMPT_COLUMNS, OutcomeError, prompt_key
from training.outcomes.summary import Summary
from training.outcomes.table import OutcomeTable
from training.outcomes.validate import Problem, Report

__all__ = [
    "OUTCOME_COLUMNS",
    "PROMPT_COLUMNS",
    "Matrix",
    "OutcomeError",
    "OutcomeTable",
    "Problem",
    "Report",
    "Summary",
    "prompt_key",
]
