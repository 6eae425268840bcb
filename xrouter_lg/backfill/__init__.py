"""Backfill: ask the other cards about chosen prompts of an outcome table.

A trace shows what the chosen card answered. Routing is learned from what every card would have
answered, so the most informative prompts are asked again, within a budget. Answers are kept for
good: no call that was paid for is made twice, whatever happens in between.
"""

from xrouter_lg.backfill.answer import AnswerKey
from xrouter_lg.backfill.asking import Asker, Order
from xrouter_lg.backfill.cache import AnswerCache
from xrouter_lg.backfill.errors import BackfillError
from xrouter_lg.backfill.grader import Grader
from xrouter_lg.backfill.run import Runner, Tally
from xrouter_lg.backfill.selection import Selection
from xrouter_lg.backfill.session import Backfill, Conditions, Preview
from xrouter_lg.outcomes.conversation import Conversation, UnaskableError, conversation_of

__all__ = [
    "AnswerCache",
    "AnswerKey",
    "Asker",
    "Backfill",
    "BackfillError",
    "Conditions",
    "Conversation",
    "Grader",
    "Order",
    "Preview",
    "Runner",
    "Selection",
    "Tally",
    "UnaskableError",
    "conversation_of",
]
