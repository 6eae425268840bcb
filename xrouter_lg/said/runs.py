"""What a model's recorded run says: which model was asked, what it answered, tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from xrouter_lg.said.message import fields_of, mapping
from xrouter_lg.said.usage import counted, usage_of
from xrouter_lg.types import TokenUsage

Run = Mapping[str, Any]
"""A run in the trace store's layout (:func:`xrouter_lg.tracing.runs.importing.plain_run`)."""


def metadata_of(run: Run) -> Mapping[str, Any]:
    return mapping(mapping(run.get("extra")).get("metadata"))


def params_of(run: Run) -> Mapping[str, Any]:
    """The parameters that a model was called with."""
    return mapping(mapping(run.get("extra")).get("invocation_params"))


def asked_model(run: Run) -> str | None:
    """The model that was asked for, as its provider knows it."""
    params = params_of(run)
    name = metadata_of(run).get("ls_model_name") or params.get("model") or params.get("model_name")
    return str(name) if name else None


def replies_of(outputs: Any) -> Iterator[Mapping[str, Any]]:
    """Fields of the messages in a model run's outputs: LangChain's generations (nested, or flat
    as some exports have them), or the choices of OpenAI's response."""
    outputs = mapping(outputs)
    for batch in outputs.get("generations") or ():
        for generation in batch if isinstance(batch, list | tuple) else (batch,):
            if fields := fields_of(mapping(generation).get("message")):
                yield fields
    for choice in outputs.get("choices") or ():
        if fields := fields_of(mapping(choice).get("message")):
            meta = {
                "finish_reason": choice.get("finish_reason"),
                "model_name": outputs.get("model"),
                "token_usage": outputs.get("usage"),
            }
            yield {**fields, "response_metadata": meta}


def reply_of(run: Run) -> Mapping[str, Any] | None:
    """Fields of the message that a model's run gave, the first of several."""
    return next(replies_of(run.get("outputs")), None)


def run_usage(run: Run) -> TokenUsage | None:
    """Tokens of a model's run: its reply's own count, else the run's; None where nobody counted.

    The reply's comes first: with several choices a provider puts the whole count on each, and the
    run's is their sum.
    """
    if (usage := usage_of(reply_of(run))) is not None:
        return usage
    counts = (
        mapping(run.get("outputs")).get("usage_metadata"),
        metadata_of(run).get("usage_metadata"),
    )
    for count in counts:
        if (usage := counted(count)) is not None:
            return usage
    prompt, completion = run.get("prompt_tokens"), run.get("completion_tokens")
    if prompt is None or completion is None:  # half a count would pass for a low cost
        return None
    return counted({"input_tokens": prompt, "output_tokens": completion})
