"""Official fakes for tests of apps that route between paid model APIs.

`ScriptedChatModel` stands for a chat model inside the process, `FakeProviders` for the
providers behind HTTP (`FakeOpenAIServer` for one that speaks OpenAI), `FaultPlan` and the fault
functions for everything that goes wrong with one. Nothing here imports the rest of xrouter_lg, so
the fakes cannot share its mistakes.
"""

from xrouter_lg.testing.answers import Call, FaultPlan, always, first, on_call, sometimes
from xrouter_lg.testing.completion import FakeModel, Reply, ToolCall, Usage
from xrouter_lg.testing.faults import (
    Fault,
    auth_error,
    bad_request,
    content_filter,
    cut_stream,
    empty,
    error_in_answer,
    hang,
    html_page,
    malformed_json,
    missing_usage,
    rate_limit,
    reset,
    server_error,
    slow_stream,
    stream_error,
    truncated,
    wrong_model,
)
from xrouter_lg.testing.journal import Bill, BillLine, RecordedRequest, Totals
from xrouter_lg.testing.scripted import (
    ModelCall,
    ScriptedChatModel,
    ScriptExhaustedError,
)
from xrouter_lg.testing.server import FakeOpenAIServer, FakeProviders

__all__ = [
    "Bill",
    "BillLine",
    "Call",
    "FakeModel",
    "FakeOpenAIServer",
    "FakeProviders",
    "Fault",
    "FaultPlan",
    "ModelCall",
    "RecordedRequest",
    "Reply",
    "ScriptExhaustedError",
    "ScriptedChatModel",
    "ToolCall",
    "Totals",
    "Usage",
    "always",
    "auth_error",
    "bad_request",
    "content_filter",
    "cut_stream",
    "empty",
    "error_in_answer",
    "first",
    "hang",
    "html_page",
    "malformed_json",
    "missing_usage",
    "on_call",
    "rate_limit",
    "reset",
    "server_error",
    "slow_stream",
    "sometimes",
    "stream_error",
    "truncated",
    "wrong_model",
]
