"""OpenAI's chat completions, and the providers that speak them with words of their own."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

from xrouter_lg.testing.completion import Completion, FakeRequest, Usage
from xrouter_lg.testing.dialects.base import Dialect
from xrouter_lg.testing.payloads import encode, sse
from xrouter_lg.testing.tokens import count_prompt_tokens

DONE = b"data: [DONE]\n\n"


class OpenAIChat(Dialect):
    """Chat completions as OpenAI documents them, with a gateway's `usage.cost`."""

    limits: ClassVar[tuple[str, ...]] = ("max_completion_tokens", "max_tokens")
    thoughts: ClassVar[str | None] = None
    """The field that shows reasoning."""
    usage_comes: ClassVar[Literal["if asked", "apart", "with the finish", "always"]] = "if asked"
    """Where a stream has the usage. Apart: in a chunk without choices."""

    def problem(self, body: Mapping[str, Any]) -> tuple[str, str] | None:
        if body.get("n") not in (None, 1):
            return "Only n=1 is supported.", "n"
        return super().problem(body)

    def count(self, body: Mapping[str, Any]) -> int:
        return count_prompt_tokens(body)

    def body(self, completion: Completion, asked: FakeRequest) -> bytes:
        choice = {
            "index": 0,
            "message": self.message(completion),
            "logprobs": None,
            **self.ending(completion),
        }
        if asked.body.get("logprobs"):
            choice["logprobs"] = {
                "content": [
                    entry
                    for position, piece in enumerate(completion.pieces)
                    for entry in _logprobs(completion, position, piece, asked.body)
                ]
            }
        payload = self._envelope(completion, asked, "chat.completion") | {"choices": [choice]}
        if completion.show_usage:
            payload["usage"] = self.usage(completion.usage)
        return encode(payload)

    def opening(self, completion: Completion, asked: FakeRequest) -> bytes:
        content = None if completion.null_content else ""
        return self._chunk(completion, asked, {"role": "assistant", "content": content})

    def pieces(self, completion: Completion, asked: FakeRequest) -> Iterator[bytes]:
        wanted = asked.body.get("logprobs")
        for position, piece in enumerate(completion.pieces):
            entries = _logprobs(completion, position, piece, asked.body) if wanted else None
            yield self._chunk(
                completion,
                asked,
                self.delta(piece),
                logprobs=None if entries is None else {"content": entries},
                part=(position + 1) / len(completion.pieces),
            )

    def closing(self, completion: Completion, asked: FakeRequest) -> Iterator[bytes]:
        last = self.last_delta(completion)
        yield self._chunk(completion, asked, last, ending=self.ending(completion))
        options = asked.body.get("stream_options") or {}
        if completion.show_usage and (
            self.usage_comes == "apart"
            or (self.usage_comes in ("if asked", "always") and options.get("include_usage"))
        ):
            envelope = self._envelope(completion, asked, "chat.completion.chunk")
            yield sse(envelope | {"choices": [], "usage": self.usage(completion.usage)})
        yield DONE

    def error(self, status: int, error: Mapping[str, Any]) -> bytes:
        return encode({"error": error})

    def error_event(
        self, error: Mapping[str, Any], completion: Completion, asked: FakeRequest
    ) -> bytes:
        return sse({"error": error})

    def usage(self, usage: Usage) -> dict[str, Any]:
        """The `usage` block."""
        block = _sums(usage) | {
            "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
            "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        }
        block["prompt_tokens_details"] |= _counted(
            audio_tokens=usage.audio_input_tokens,
            cache_write_tokens=usage.cache_write_tokens + usage.cache_write_1h_tokens,
        )
        block["completion_tokens_details"] |= _counted(
            audio_tokens=usage.audio_output_tokens,
            accepted_prediction_tokens=usage.accepted_prediction_tokens,
            rejected_prediction_tokens=usage.rejected_prediction_tokens,
        )
        if usage.cost_usd is not None:
            block["cost"] = float(usage.cost_usd)
        return block

    def ending(self, completion: Completion) -> dict[str, Any]:
        """The fields of a choice that say why it ended."""
        return {"finish_reason": self.finish(completion)}

    def last_delta(self, completion: Completion) -> Mapping[str, Any]:
        """What comes with the finish reason of a stream."""
        return {}

    def extras(self, completion: Completion) -> dict[str, Any]:
        """Further fields of the response and of each chunk."""
        return {"system_fingerprint": "fp_fake"}

    def _chunk(
        self,
        completion: Completion,
        asked: FakeRequest,
        delta: Mapping[str, Any],
        *,
        ending: dict[str, Any] | None = None,
        logprobs: Mapping[str, Any] | None = None,
        part: float = 0.0,
    ) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": None}
        chunk = self._envelope(completion, asked, "chat.completion.chunk")
        chunk["choices"] = [choice | (ending or {})]
        if not completion.show_usage:
            pass
        elif ending is not None and self.usage_comes in ("with the finish", "always"):
            chunk["usage"] = self.usage(completion.usage)
        elif self.usage_comes == "always":
            chunk["usage"] = self.usage(completion.usage.generated(round(part * 1000), 1000))
        return sse(chunk)

    def _envelope(self, completion: Completion, asked: FakeRequest, kind: str) -> dict[str, Any]:
        return {
            "id": f"chatcmpl-fake-{asked.number}",
            "object": kind,
            "created": int(time.time()),
            "model": completion.served_model,
            **self.extras(completion),
        }

    def delta(self, piece: Mapping[str, Any]) -> Mapping[str, Any]:
        """A token in a stream."""
        if "thought" not in piece:
            return piece
        return {} if self.thoughts is None else {self.thoughts: piece["thought"]}

    def message(self, completion: Completion) -> dict[str, Any]:
        """The message of a response."""
        said = completion.said
        message: dict[str, Any] = {
            "role": "assistant",
            "content": None if completion.null_content and not said.text else said.text,
            "refusal": said.refusal or None,
        }
        if self.thoughts is not None and said.thoughts:
            message[self.thoughts] = said.thoughts
        if said.calls:
            message["tool_calls"] = [
                {
                    "id": call["id"],
                    "type": "function",
                    "function": {"name": call["name"], "arguments": call["arguments"]},
                }
                for call in said.calls
            ]
        return message


class CompatibleChat(OpenAIChat):
    """A server that speaks OpenAI in part: it reads `max_tokens` alone, and repeats the usage so
    far on every chunk, as vLLM does on request."""

    limits = ("max_tokens",)
    usage_comes = "always"


class MistralChat(OpenAIChat):
    """Mistral's chat completions: `max_tokens` alone, usage and whole tool calls at the end."""

    limits = ("max_tokens",)
    usage_comes = "with the finish"

    def problem(self, body: Mapping[str, Any]) -> tuple[str, str] | None:
        if "max_completion_tokens" in body:
            return "Extra inputs are not permitted.", "max_completion_tokens"
        return super().problem(body)

    def delta(self, piece: Mapping[str, Any]) -> Mapping[str, Any]:
        return {} if "tool_calls" in piece else super().delta(piece)

    def last_delta(self, completion: Completion) -> Mapping[str, Any]:
        calls = self.message(completion).get("tool_calls", [])
        return {"tool_calls": [{**it, "index": place} for place, it in enumerate(calls)]}

    def usage(self, usage: Usage) -> dict[str, Any]:
        cached = _counted(cached_tokens=usage.cached_tokens)
        return _sums(usage) | ({"prompt_tokens_details": cached} if cached else {})

    def error(self, status: int, error: Mapping[str, Any]) -> bytes:
        return encode({"object": "error", **error})

    def error_event(
        self, error: Mapping[str, Any], completion: Completion, asked: FakeRequest
    ) -> bytes:
        return sse({"object": "error", **error})


class OpenRouterChat(OpenAIChat):
    """OpenRouter: what a request cost, and errors that stand inside an answer."""

    thoughts = "reasoning"
    usage_comes = "apart"

    def usage(self, usage: Usage) -> dict[str, Any]:
        block = super().usage(usage)
        if usage.cost_usd is not None:
            cost = float(usage.cost_usd)
            block["cost_details"] = {
                "upstream_inference_cost": None,
                "upstream_inference_prompt_cost": cost / 2,
                "upstream_inference_completions_cost": cost / 2,
            }
        if usage.searches:
            block["server_tool_use"] = {"web_search_requests": usage.searches}
        return block

    def ending(self, completion: Completion) -> dict[str, Any]:
        word = self.finish(completion)
        fields: dict[str, Any] = {"finish_reason": word, "native_finish_reason": word}
        if word == "error":
            fields["error"] = {"code": 502, "message": "The provider broke off (fake)."}
        return fields

    def extras(self, completion: Completion) -> dict[str, Any]:
        return {"provider": "Fake", "system_fingerprint": "fp_fake"}

    def error(self, status: int, error: Mapping[str, Any]) -> bytes:
        return encode({"error": {"code": status, "message": error["message"]}})

    def error_event(
        self, error: Mapping[str, Any], completion: Completion, asked: FakeRequest
    ) -> bytes:
        choice = {"index": 0, "delta": {"content": ""}, "finish_reason": "error"}
        chunk = self._envelope(completion, asked, "chat.completion.chunk")
        told = {"code": 502, "message": error["message"]}
        return sse({**chunk, "error": told, "choices": [choice]})


class DeepSeekChat(OpenAIChat):
    """DeepSeek: `max_tokens` alone, cache hits and misses, `reasoning_content`."""

    limits = ("max_tokens",)
    words: ClassVar[Mapping[str, str]] = {"error": "insufficient_system_resource"}
    thoughts = "reasoning_content"
    usage_comes = "with the finish"

    def usage(self, usage: Usage) -> dict[str, Any]:
        return _sums(usage) | {
            "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
            "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
            "prompt_cache_hit_tokens": usage.cached_tokens,
            "prompt_cache_miss_tokens": usage.prompt_tokens - usage.cached_tokens,
        }


class XAIChat(OpenAIChat):
    """xAI: reasoning beside the completion, not in it; the cost in ticks of 1e-10 USD."""

    thoughts = "reasoning_content"

    def usage(self, usage: Usage) -> dict[str, Any]:
        block = super().usage(usage)
        block["completion_tokens"] -= usage.reasoning_tokens
        text = usage.prompt_tokens - usage.audio_input_tokens - usage.image_input_tokens
        block["prompt_tokens_details"] |= {
            "text_tokens": text,
            "audio_tokens": usage.audio_input_tokens,
            "image_tokens": usage.image_input_tokens,
        }
        block["num_sources_used"] = usage.searches
        if usage.code_runs:
            block["server_side_tool_usage_details"] = {"code_interpreter_calls": usage.code_runs}
        if usage.cost_usd is not None:
            del block["cost"]
            block["cost_in_usd_ticks"] = int(usage.cost_usd * 10**10)
        return block

    def error(self, status: int, error: Mapping[str, Any]) -> bytes:
        return encode({"code": error["type"], "error": error["message"]})


class PerplexityChat(OpenAIChat):
    """Perplexity's Sonar: searches, citations and costs in `usage`, on every chunk. Reasoning and
    citations stand beside the sums."""

    limits = ("max_tokens",)
    usage_comes = "always"

    def usage(self, usage: Usage) -> dict[str, Any]:
        visible = replace(usage, completion_tokens=usage.completion_tokens - usage.reasoning_tokens)
        block = _sums(visible) | {"search_context_size": "low"}
        block |= _counted(
            citation_tokens=usage.citation_tokens,
            num_search_queries=usage.searches,
            reasoning_tokens=usage.reasoning_tokens,
        )
        total = 0.0 if usage.cost_usd is None else float(usage.cost_usd)
        if usage.cost_usd is not None:
            block["cost"] = {
                "input_tokens_cost": total / 4,
                "output_tokens_cost": total / 4,
                "request_cost": total / 2,
                "total_cost": total,
            }
        return block

    def message(self, completion: Completion) -> dict[str, Any]:
        message = super().message(completion)
        return {**message, "content": message["content"] or ""}

    def extras(self, completion: Completion) -> dict[str, Any]:
        return {"citations": ["https://example.org/source"], "search_results": []}


def _sums(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def _counted(**counts: int) -> dict[str, int]:
    return {name: count for name, count in counts.items() if count}


def _logprobs(
    completion: Completion, position: int, piece: Mapping[str, Any], body: Mapping[str, Any]
) -> list[dict[str, Any]]:
    if "content" not in piece:
        return []
    token, wanted = piece["content"], body.get("top_logprobs") or 0
    shown = completion.first_logprobs if position == 0 else None
    if shown is None:
        # The token has 0.9, made-up alternatives share the rest by halves.
        shown = {token: math.log(0.9)}
        shown |= {f"alt{rank}": math.log(0.1 / 2**rank) for rank in range(1, wanted)}
    ranked = sorted(shown.items(), key=lambda item: -item[1])[:wanted]
    top = [_entry(name, value) for name, value in ranked]
    # OpenAI's floor for a token that is not among those it ranked.
    return [_entry(token, shown.get(token, -9999.0)) | {"top_logprobs": top}]


def _entry(token: str, logprob: float) -> dict[str, Any]:
    return {"token": token, "logprob": logprob, "bytes": list(token.encode())}
