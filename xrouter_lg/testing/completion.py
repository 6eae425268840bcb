"""What a fake model answers, before it becomes bytes.

An answer is a sequence of pieces, each one generated token: a word of the text, or a
fragment of a tool call. Streaming, truncation, cutting and billing all count the same
pieces, so they cannot disagree.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

from xrouter_lg.testing.tokens import split_tokens

_FRAGMENT = 4  # characters of tool call arguments per token


@dataclass(frozen=True)
class Usage:
    """Tokens and USD of one answer, told to each provider's client in its own terms.

    The first two are whole sums; every other kind of token is a share of one of them.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    """Of the prompt: read from the cache."""
    reasoning_tokens: int = 0
    """Of the output: thoughts."""
    cost_usd: Decimal | None = None
    """The provider's own bill, where it sends one."""
    cache_write_tokens: int = 0
    """Of the prompt: written to the cache for five minutes."""
    cache_write_1h_tokens: int = 0
    """Of the prompt: written to the cache for an hour."""
    audio_input_tokens: int = 0
    image_input_tokens: int = 0
    tool_prompt_tokens: int = 0
    """Of the prompt: what the provider's own tools put into it."""
    audio_output_tokens: int = 0
    image_output_tokens: int = 0
    accepted_prediction_tokens: int = 0
    rejected_prediction_tokens: int = 0
    citation_tokens: int = 0
    """Beside both sums: the sources that a search put before the model."""
    searches: int = 0
    """Searches of the provider's own, billed per request."""
    code_runs: int = 0
    """Runs of code by the provider itself; a container each, where those are billed."""
    picture_tokens: int = 0
    """Beside both sums: output of the model with which a tool of the provider's has made a
    picture."""

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
    thoughts: str | None = None
    """Reasoning before the answer, where the provider shows it."""
    finish_reason: str | None = None
    """`stop`, `tool_calls`, `length`, `content_filter` or `error`, said in the provider's own
    words; any other word is sent as it is. Left out: `tool_calls` if there are any, else
    `stop`; `length` when a limit cuts."""
    refusal: str | None = None
    top_logprobs: Mapping[str, float] | None = None
    """Log probabilities shown for the first token, if the request asks for logprobs."""
    prompt_tokens: int | None = None
    """Billed for this answer, whatever the model's own figure is."""
    completion_tokens: int | None = None
    """The same for the output."""
    usage: Usage | None = None
    """Billed for this answer, kind by kind, in place of every other figure."""


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


@dataclass(frozen=True, kw_only=True)
class FakeRequest:
    """What a request asks for, whichever way it was written."""

    number: int
    """The request's; answers and tool calls have it in their ids."""
    model: str
    body: dict[str, Any]
    prompt_tokens: int
    """Counted from the text."""
    limit: int | None = None
    """Output tokens at most, by the names that the provider reads."""
    stops: Sequence[str] = ()


@dataclass(frozen=True)
class Said:
    """A completion's parts, as a response without `stream` has them."""

    thoughts: str
    text: str
    refusal: str
    calls: list[dict[str, str]] = field(default_factory=list)
    """`id`, `name` and `arguments` (JSON) of each tool call."""

    @property
    def parsed_calls(self) -> list[dict[str, Any]]:
        """The calls for a protocol whose arguments are objects; broken JSON is an empty one."""
        parsed = []
        for call in self.calls:
            try:
                arguments = json.loads(call["arguments"])
            except ValueError:
                arguments = {}
            parsed.append({**call, "arguments": arguments})
        return parsed


@dataclass(frozen=True)
class Completion:
    """A finished answer: its pieces, why it ended, what it costs, which model it names."""

    pieces: tuple[dict[str, Any], ...]
    """OpenAI's streaming deltas, one per visible token, and `thought` for one of reasoning."""
    finish_reason: str
    usage: Usage
    served_model: str
    null_content: bool = False
    """No text at all, rather than an empty one."""
    show_usage: bool = True
    first_logprobs: Mapping[str, float] | None = None

    @property
    def said(self) -> Said:
        """The pieces put together."""
        thoughts, text, refusal = (
            "".join(piece.get(key, "") for piece in self.pieces)
            for key in ("thought", "content", "refusal")
        )
        said = Said(thoughts, text, refusal)
        for piece in self.pieces:
            for call in piece.get("tool_calls", ()):
                if "id" in call:
                    said.calls.append({"id": call["id"], "name": call["function"]["name"]})
                arguments = call["function"]["arguments"]
                said.calls[-1]["arguments"] = said.calls[-1].get("arguments", "") + arguments
        return said

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


def complete(model: FakeModel, asked: FakeRequest) -> Completion:
    """Ask a fake model for its answer to a request."""
    source = model.reply(asked.body) if callable(model.reply) else model.reply
    reply = Reply(content=source) if isinstance(source, str) else source
    pieces = _pieces(reply, asked.stops, asked.number)
    usage = reply.usage or _usage(model, asked, len(pieces), reply)
    completion = Completion(
        pieces=pieces,
        finish_reason=reply.finish_reason or ("tool_calls" if reply.tool_calls else "stop"),
        usage=usage,
        served_model=model.served_name or asked.model,
        null_content=reply.content is None,
        first_logprobs=reply.top_logprobs,
    )
    if asked.limit is None or usage.completion_tokens <= asked.limit:
        return completion
    return _limited(completion, asked.limit)


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


def _usage(model: FakeModel, asked: FakeRequest, pieces: int, reply: Reply) -> Usage:
    prompt = model.prompt_tokens if reply.prompt_tokens is None else reply.prompt_tokens
    output = model.completion_tokens if reply.completion_tokens is None else reply.completion_tokens
    return Usage(
        prompt_tokens=asked.prompt_tokens if prompt is None else prompt,
        completion_tokens=pieces + model.reasoning_tokens if output is None else output,
        cached_tokens=model.cached_tokens,
        reasoning_tokens=model.reasoning_tokens,
        cost_usd=None if model.cost_usd is None else Decimal(str(model.cost_usd)),
    )


def _pieces(reply: Reply, stops: Sequence[str], number: int) -> tuple[dict[str, Any], ...]:
    text = reply.content or ""
    for stop in stops:
        text = text.split(stop, 1)[0]
    thoughts = split_tokens(reply.thoughts or "")
    pieces: list[dict[str, Any]] = [{"thought": token} for token in thoughts]
    pieces += [{"content": token} for token in split_tokens(text)]
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
