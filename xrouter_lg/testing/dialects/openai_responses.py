"""OpenAI's Responses API."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from xrouter_lg.testing.completion import Completion, FakeRequest, Said, Usage
from xrouter_lg.testing.dialects.base import Dialect
from xrouter_lg.testing.payloads import encode, sse

_INCOMPLETE = {"length": "max_output_tokens"}


class OpenAIResponses(Dialect):
    """Output items; how an answer ended is the response's `status`."""

    messages = "input"
    prompt = ("instructions", "input", "tools")
    limits = ("max_output_tokens",)

    def problem(self, body: Mapping[str, Any]) -> tuple[str, str] | None:
        if isinstance(body.get("input"), str):
            return None
        return super().problem(body)

    def body(self, completion: Completion, asked: FakeRequest) -> bytes:
        return encode(_response(completion, asked))

    def opening(self, completion: Completion, asked: FakeRequest) -> bytes:
        response = _response(completion, asked) | {
            "status": "in_progress",
            "output": [],
            "usage": None,
            "error": None,
            "incomplete_details": None,
        }
        return _event("created", 0, response=response)

    def pieces(self, completion: Completion, asked: FakeRequest) -> Iterator[bytes]:
        output = _output(completion.said, asked.number, completion.usage)
        items = {item["type"]: place for place, item in reversed(list(enumerate(output)))}
        index, number, seen = -1, 0, ""
        for piece in completion.pieces:
            if "tool_calls" in piece:
                call = piece["tool_calls"][0]
                kind, begins = "function_call", "id" in call
                place = items[kind] + call["index"]
            else:
                kind = "reasoning" if "thought" in piece else "message"
                place, begins = items[kind], kind != seen
            events = b""
            if begins:
                number, index = number + 1, place
                events += _begin(output[index], index, number)
            seen, number = kind, number + 1
            yield events + _delta(piece, output[index]["id"], index, number)

    def closing(self, completion: Completion, asked: FakeRequest) -> Iterator[bytes]:
        response = _response(completion, asked)
        number = 10 * (len(completion.pieces) + 1)
        for index, item in enumerate(response["output"]):
            yield _event("output_item.done", number + index, output_index=index, item=item)
        yield _event(response["status"], number + len(response["output"]), response=response)

    def error(self, status: int, error: Mapping[str, Any]) -> bytes:
        return encode({"error": error})

    def error_event(
        self, error: Mapping[str, Any], completion: Completion, asked: FakeRequest
    ) -> bytes:
        told = {"code": "server_error", "message": error["message"], "param": None}
        return sse({"type": "error", "sequence_number": 10_000, **told}, event="error")


def _response(completion: Completion, asked: FakeRequest) -> dict[str, Any]:
    word = completion.finish_reason
    status = "completed" if word in ("stop", "tool_calls") else "incomplete"
    status = "failed" if word == "error" else status
    response: dict[str, Any] = {
        "id": f"resp_fake_{asked.number}",
        "object": "response",
        "created_at": 1,
        "status": status,
        "model": completion.served_model,
        "output": _output(completion.said, asked.number, completion.usage, status),
        "error": None,
        "incomplete_details": None,
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": _usage(completion.usage) if completion.show_usage else None,
    }
    if completion.show_usage and (made := completion.usage.picture_tokens):
        response["tool_usage"] = {"image_gen": _made(made), "web_search": {"num_requests": 0}}
    if status == "incomplete":
        response["incomplete_details"] = {"reason": _INCOMPLETE.get(word, word)}
    if status == "failed":
        response["error"] = {"code": "server_error", "message": "The model broke off (fake)."}
    return response


def _output(
    said: Said, number: int, usage: Usage, status: str = "in_progress"
) -> list[dict[str, Any]]:
    status = "incomplete" if status == "failed" else status
    output: list[dict[str, Any]] = []
    if said.thoughts:
        summary = [{"type": "summary_text", "text": said.thoughts}]
        output.append({"type": "reasoning", "id": f"rs_{number}", "summary": summary})
    if said.text or said.refusal:
        content: list[dict[str, Any]] = []
        if said.text:
            content.append({"type": "output_text", "text": said.text, "annotations": []})
        if said.refusal:
            content.append({"type": "refusal", "refusal": said.refusal})
        message = {"type": "message", "id": f"msg_{number}", "role": "assistant"}
        output.append({**message, "status": status, "content": content})
    output += [
        {
            "type": "function_call",
            "id": f"fc_{number}_{place}",
            "call_id": call["id"],
            "name": call["name"],
            "arguments": call["arguments"],
            "status": status,
        }
        for place, call in enumerate(said.calls)
    ]
    output += [
        {
            "type": "web_search_call",
            "id": f"ws_{number}_{place}",
            "status": "completed",
            "action": {"type": "search", "query": "fake"},
        }
        for place in range(usage.searches)
    ]
    output += [
        {
            "type": "code_interpreter_call",
            "id": f"ci_{number}_{place}",
            "status": "completed",
            "code": "pass",
            "container_id": f"cntr_{number}_{place}",
            "outputs": [],
        }
        for place in range(usage.code_runs)
    ]
    if usage.picture_tokens:
        picture = {"type": "image_generation_call", "id": f"ig_{number}", "status": "completed"}
        output.append({**picture, "result": "AAAA"})
    return output


def _made(tokens: int) -> dict[str, Any]:
    """The count of the model that has made a picture."""
    return {
        "input_tokens": 0,
        "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
        "output_tokens": tokens,
        "total_tokens": tokens,
    }


def _begin(item: Mapping[str, Any], index: int, number: int) -> bytes:
    """The events that open an item, which is still empty."""
    empty = {"message": "content", "reasoning": "summary"}.get(item["type"])
    opened = {**item, "arguments": ""} if empty is None else {**item, empty: []}
    events = _event("output_item.added", number, output_index=index, item=opened)
    where = {"item_id": item["id"], "output_index": index}
    if item["type"] == "message":
        part = {"type": "output_text", "text": "", "annotations": []}
        events += _event("content_part.added", number, **where, content_index=0, part=part)
    if item["type"] == "reasoning":
        part = {"type": "summary_text", "text": ""}
        events += _event(
            "reasoning_summary_part.added", number, **where, summary_index=0, part=part
        )
    return events


def _delta(piece: Mapping[str, Any], item: str, index: int, number: int) -> bytes:
    where = {"item_id": item, "output_index": index}
    if "tool_calls" in piece:
        arguments = piece["tool_calls"][0]["function"]["arguments"]
        return _event("function_call_arguments.delta", number, **where, delta=arguments)
    if "thought" in piece:
        return _event(
            "reasoning_summary_text.delta", number, **where, summary_index=0, delta=piece["thought"]
        )
    for key, kind in (("content", "output_text"), ("refusal", "refusal")):
        if key in piece:
            where |= {"content_index": 0, "delta": piece[key]}
            more: dict[str, Any] = {"logprobs": []} if key == "content" else {}
            return _event(f"{kind}.delta", number, **where, **more)
    raise ValueError(f"unknown piece {piece!r}")


def _usage(usage: Usage) -> dict[str, Any]:
    details = {"cached_tokens": usage.cached_tokens}
    if written := usage.cache_write_tokens + usage.cache_write_1h_tokens:
        details["cache_write_tokens"] = written
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": details,
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def _event(kind: str, number: int, **fields: Any) -> bytes:
    kind = f"response.{kind}"
    return sse({"type": kind, "sequence_number": number, **fields}, event=kind)
