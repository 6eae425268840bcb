"""The one room that reads messages, live or recorded: what was said, tokens, cost, how it ended.

Serving, ledger, traces and outcomes read with the same functions, so they can't disagree.
"""

from xrouter_lg.said.bill import (
    RAW_USAGE_KEY,
    answer_tokens,
    has_answered,
    is_unbilled,
    reported_cost,
    served_model,
    served_region,
    served_tier,
    usd_of,
)
from xrouter_lg.said.ending import (
    CUT,
    NATIVE_ENDING_KEY,
    counts_on,
    flaw_of,
    says_something,
    was_cut,
)
from xrouter_lg.said.hosted import HOSTED_CALLS_KEY, TOOL_USAGE_KEY, as_asked, picture_tokens
from xrouter_lg.said.message import (
    Message,
    answer_of,
    fields_of,
    other_blocks,
    plain_message,
    plain_messages,
    question_of,
    response_metadata_of,
    text_of,
    tool_calls_of,
)
from xrouter_lg.said.runs import (
    Run,
    asked_messages,
    asked_model,
    asked_tools,
    metadata_of,
    params_of,
    replies_of,
    reply_of,
    run_usage,
)
from xrouter_lg.said.usage import counted, told_usage_of, usage_of

__all__ = [
    "CUT",
    "HOSTED_CALLS_KEY",
    "NATIVE_ENDING_KEY",
    "RAW_USAGE_KEY",
    "TOOL_USAGE_KEY",
    "Message",
    "Run",
    "answer_of",
    "answer_tokens",
    "as_asked",
    "asked_messages",
    "asked_model",
    "asked_tools",
    "counted",
    "counts_on",
    "fields_of",
    "flaw_of",
    "has_answered",
    "is_unbilled",
    "metadata_of",
    "other_blocks",
    "params_of",
    "picture_tokens",
    "plain_message",
    "plain_messages",
    "question_of",
    "replies_of",
    "reply_of",
    "reported_cost",
    "response_metadata_of",
    "run_usage",
    "says_something",
    "served_model",
    "served_region",
    "served_tier",
    "text_of",
    "told_usage_of",
    "tool_calls_of",
    "usage_of",
    "usd_of",
    "was_cut",
]
