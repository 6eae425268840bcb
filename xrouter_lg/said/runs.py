"""What a model's recorded run says: which model was asked, what it answered, tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from xrouter_lg.said.message import Message, fields_of, mapping, plain_messages
from xrouter_lg.said.usage import counted, usage_of
from xrouter_lg.said.wire import asked_in, replies_in, tool_choice_in, tools_in
from xrouter_lg.types import TokenUsage

Run = Mapping[str, Any]
"""A run in the trace store's layout (:func:`xrouter_lg.tracing.runs.importing.plain_run`)."""

_TOOL_OPTIONS = ("tool_choice", "parallel_tool_calls")


def metadata_of(run: Run) -> Mapping[str, Any]:
    return mapping(mapping(run.get("extra")).get("metadata"))


def params_of(run: Run) -> Mapping[str, Any]:
    """The parameters that a model was called with."""
    return mapping(mapping(run.get("extra")).get("invocation_params"))


def asked_model(run: Run) -> str | None:
    """The model that was asked for, as its provider knows it."""
    params = params_of(run)
    asked = mapping(run.get("inputs")).get("model")
    named = (metadata_of(run).get("ls_model_name"), params.get("model"), params.get("model_name"))
    return next((name for name in (*named, asked) if name and isinstance(name, str)), None)


def asked_messages(run: Run) -> tuple[Message, ...]:
    """What a model was asked; nothing where a part of it is the provider's to know."""
    return plain_messages(asked_in(run.get("inputs")))


def asked_tools(run: Run) -> tuple[tuple[dict[str, Any], ...], dict[str, Any]]:
    """The tools that a model was given, and how (``tool_choice`` ...)."""
    params, inputs = params_of(run), mapping(run.get("inputs"))
    tools = params.get("tools")
    if isinstance(tools, list | tuple) and tools:
        options = {name: params.get(name) for name in _TOOL_OPTIONS}
    else:
        tools = tools_in(inputs)
        options = {
            "tool_choice": tool_choice_in(inputs),
            "parallel_tool_calls": inputs.get("parallel_tool_calls"),
        }
    given = tuple(dict(tool) for tool in tools if isinstance(tool, Mapping))
    said = {name: value for name, value in options.items() if value is not None}
    return (given, said) if given else ((), {})


def replies_of(outputs: Any) -> Iterator[Mapping[str, Any]]:
    """Fields of the messages in a model run's outputs: LangChain's generations (nested, or flat
    as some exports have them), or a provider's own response."""
    outputs = mapping(outputs)
    if not outputs.get("generations"):
        yield from replies_in(outputs)
        return
    for batch in outputs["generations"]:
        for generation in batch if isinstance(batch, list | tuple) else (batch,):
            if fields := fields_of(mapping(generation).get("message")):
                yield fields


def reply_of(run: Run) -> Mapping[str, Any] | None:
    """Fields of the message that a model's run gave, the first of several."""
    return next(replies_of(run.get("outputs")), None)


def run_usage(run: Run) -> TokenUsage | None:
    """Tokens of a model's run: its reply's own count, else the run's; None where nobody counted.

    The reply's comes first: with several choices a provider puts the whole count on each, and the
    run's is their sum.
    """
    reply = reply_of(run)
    if (usage := usage_of(reply)) is not None:
        return usage
    counts = (
        mapping(run.get("outputs")).get("usage_metadata"),
        metadata_of(run).get("usage_metadata"),
    )
    for count in counts:
        if (usage := counted(count, answer=reply)) is not None:
            return usage
    prompt, completion = run.get("prompt_tokens"), run.get("completion_tokens")
    if prompt is None or completion is None:  # half a count would pass for a low cost
        return None
    return counted({"input_tokens": prompt, "output_tokens": completion}, answer=reply)
