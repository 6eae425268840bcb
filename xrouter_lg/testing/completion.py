"""What a fake model answers, before it becomes bytes.

An answer is a sequence of pieces, each one generated token: a word of the text, or a
fragment of a tool call. Streaming, truncation, cutting and billing all count the same
pieces, so they cannot disagree.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from xrouter_lg.testing.tokens import count_prompt_tokens, split_tokens

_FRAGMENT = 4  # characters of tool call arguments per token


@dataclass(frozen=True)
class ToolCall:
    """One tool call in a `Reply`."""

    name: str
    args: Mapping[str, Any] | str
    """Arguments; a str is sent as it is, so that broken JSON can be tested."""
    id: str | None = None
    """Left out: unique per server, `call_<request>_<index>`."""


@dataclass(frozen=True)
class Reply:
    """A fake model's answer where plain text is not enough."""

    content: str | None = None
    tool_calls: Sequence[ToolCall] = ()
    finish_reason: str | None = None
    """Left out: `tool_calls` if there are any, else `stop`; `length` when a limit cuts."""
    refusal: str | None = None
    top_logprobs: Mapping[str, float] | None = None
    """Log probabilities shown for the first token, if the request asks for logprobs."""
    prompt_tokens: int | None = None
    """Billed for this answer, whatever the model's own figure is."""
    completion_tokens: int | None = None
    """The same for the output."""


ReplySource = str | Reply | Callable[[dict[str, Any]], "str | Reply"]


@dataclass(frozen=True, kw_only=True)
class FakeModel:
    """One model of a `FakeOpenAIServer`: what it says, how long it takes, what it bills.

    Token figures left out are counted from the text (see `xrouter_lg.testing.tokens`).
    """

    name: str
    reply: ReplySource = "This is a fake answer."
    """Text, a `Reply`, or a function of the request's body, called in the server's thread."""
    latency_s: float = 0.0
    """Seconds until the answer, or until the first chunk."""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    """All output tokens, reasoning among them; `max_tokens` still limits them."""
    cached_tokens: int = 0
    """Share of the prompt read from the cache."""
    reasoning_tokens: int = 0
    """Hidden output tokens, generated before the first visible one."""
    cost_usd: float | Decimal | None = None
    """USD per request, reported as OpenRouter does in `usage.cost`; None: not reported."""
    served_name: str | None = None
    """The `model` of the response, e.g. a dated version; left out: the name asked for."""
    context_window: int | None = None
    """Longer prompts get a 400 with the code `context_length_exceeded`."""

    def __post_init__(self) -> None:
        """Refuse figures that no provider could report."""
        for part, whole in (
            ("cached_tokens", "prompt_tokens"),
            ("reasoning_tokens", "completion_tokens"),
        ):
            share, total = getattr(self, part), getattr(self, whole)
            if total is not None and share > total:
                raise ValueError(
                    f"{part}={share} is more than {whole}={total} of fake model {self.name!r}"
                )


@dataclass(frozen=True)
class Usage:
    """Tokens and USD of one answer."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    cost_usd: Decimal | None = None

    def generated(self, part: int, whole: int) -> Usage:
        """The usage when only `part` of `whole` visible pieces were generated."""
        if part >= whole:
            return self
        visible = self.completion_tokens - self.reasoning_tokens
        return self.with_completion(
            self.reasoning_tokens + round(visible * part / whole), self.reasoning_tokens
        )

    def with_completion(self, completion: int, reasoning: int) -> Usage:
        """The usage with another output; the cost shrinks with the total of tokens."""
        cost, total = self.cost_usd, self.prompt_tokens + self.completion_tokens
        if cost is not None and total:
            cost = cost * (self.prompt_tokens + completion) / total
        return replace(
            self, completion_tokens=completion, reasoning_tokens=reasoning, cost_usd=cost
        )

    def as_json(self) -> dict[str, Any]:
        """The `usage` block of a response."""
        block: dict[str, Any] = {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
            "completion_tokens_details": {"reasoning_tokens": self.reasoning_tokens},
        }
        if self.cost_usd is not None:
            block["cost"] = float(self.cost_usd)
        return block


@dataclass(frozen=True)
class Completion:
    """A finished answer: its pieces, why it ended, what it costs, which model it names."""

    pieces: tuple[dict[str, Any], ...]
    """Streaming deltas, one per visible token."""
    finish_reason: str
    usage: Usage
    served_model: str
    null_content: bool = False
    """No text at all, rather than an empty one."""
    show_usage: bool = True
    first_logprobs: Mapping[str, float] | None = None

    def truncated(self, keep: int, finish_reason: str = "length") -> Completion:
        """The completion with only its first `keep` pieces, and a bill to match."""
        return replace(
            self,
            pieces=self.pieces[:keep],
            finish_reason=finish_reason,
            usage=self.usage.generated(keep, len(self.pieces)),
        )

    def emptied(self) -> Completion:
        """The completion without a word: only the prompt is billed."""
        return replace(
            self,
            pieces=(),
            finish_reason="stop",
            null_content=False,
            usage=self.usage.with_completion(0, 0),
        )


def complete(model: FakeModel, body: dict[str, Any], number: int) -> Completion:
    """Ask a fake model for its answer to a request body; `number` makes call ids unique."""
    source = model.reply(body) if callable(model.reply) else model.reply
    reply = Reply(content=source) if isinstance(source, str) else source
    pieces = _pieces(reply, _stops(body), number)
    usage = _usage(model, body, len(pieces), reply)
    completion = Completion(
        pieces=pieces,
        finish_reason=reply.finish_reason or ("tool_calls" if reply.tool_calls else "stop"),
        usage=usage,
        served_model=model.served_name or str(body.get("model", model.name)),
        null_content=reply.content is None,
        first_logprobs=reply.top_logprobs,
    )
    limit = body.get("max_completion_tokens") or body.get("max_tokens")
    if limit is None or usage.completion_tokens <= limit:
        return completion
    return _limited(completion, limit)


def _limited(completion: Completion, limit: int) -> Completion:
    """Stop at `limit` output tokens; reasoning is generated first and may use them all up."""
    usage = completion.usage
    reasoning = min(usage.reasoning_tokens, limit)
    visible = usage.completion_tokens - usage.reasoning_tokens
    share = (limit - reasoning) / visible if visible else 0
    # The small addend keeps 3 / 7 * 7 at three pieces, whatever the floating point says.
    keep = min(len(completion.pieces), int(len(completion.pieces) * share + 1e-9))
    return replace(
        completion,
        pieces=completion.pieces[:keep],
        finish_reason="length",
        usage=usage.with_completion(limit, reasoning),
    )


def _usage(model: FakeModel, body: dict[str, Any], pieces: int, reply: Reply) -> Usage:
    prompt = model.prompt_tokens if reply.prompt_tokens is None else reply.prompt_tokens
    output = model.completion_tokens if reply.completion_tokens is None else reply.completion_tokens
    return Usage(
        prompt_tokens=count_prompt_tokens(body) if prompt is None else prompt,
        completion_tokens=pieces + model.reasoning_tokens if output is None else output,
        cached_tokens=model.cached_tokens,
        reasoning_tokens=model.reasoning_tokens,
        cost_usd=None if model.cost_usd is None else Decimal(str(model.cost_usd)),
    )


def _stops(body: Mapping[str, Any]) -> Sequence[str]:
    stop = body.get("stop") or ()
    return (stop,) if isinstance(stop, str) else stop


def _pieces(reply: Reply, stops: Sequence[str], number: int) -> tuple[dict[str, Any], ...]:
    text = reply.content or ""
    for stop in stops:
        text = text.split(stop, 1)[0]
    pieces: list[dict[str, Any]] = [{"content": token} for token in split_tokens(text)]
    pieces += [{"refusal": token} for token in split_tokens(reply.refusal or "")]
    for index, call in enumerate(reply.tool_calls):
        args = call.args if isinstance(call.args, str) else json.dumps(call.args)
        head = {"name": call.name, "arguments": ""}
        identity = {"id": call.id or f"call_{number}_{index}", "type": "function"}
        pieces.append({"tool_calls": [{"index": index, **identity, "function": head}]})
        for start in range(0, len(args), _FRAGMENT):
            part = {"arguments": args[start : start + _FRAGMENT]}
            pieces.append({"tool_calls": [{"index": index, "function": part}]})
    return tuple(pieces)
