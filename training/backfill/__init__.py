"""Backfill: ask the other cards about chosen prompts of an outcome table.

A trace shows what the chosen card answered. Routing is learned from what every card would have
answered, so the most informative prompts are asked again, within a budget. Answers are kept for
good: no call that was paid for is made twice, whatever happens in between.
"""

from training.backfill.cache import AnswerCache, AnswerKey, Scored, Spending, Stored
from training.backfill.conversation import Conversation, UnaskableError, conversation_of
from training.backfill.errors import BackfillError
from training.backfill.plan import Plan, Selection, plan_backfill
from training.backfill.run import Runner, Tally
from training.backfill.scoring import Grader
from training.backfill.session import Backfill, CardPreview, Conditions, Preview
from training.backfill.value import Weights

__all__ = [
    "AnswerCache",
    "AnswerKey",
    "Backfill",
    "BackfillError",
    "CardPreview",
    "Conditions",
    "Conversation",
    "Grader",
    "Plan",
    "Preview",
    "Runner",
    "Scored",
    "Selection",
    "Spending",
    "Stored",
    "Tally",
    "UnaskableError",
    "Weights",
    "conversation_of",
    "plan_backfill",
]
