"""From a worker's message to the Responses API's objects and events."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk

from xrouter_lg.said import served_model, usage_of
from xrouter_lg.serve.live import event
from xrouter_lg.serve.wire.said_back import finish_of, record_of, shown_record, tool_calls_of


def response_body(message: AIMessage, trace_id: str, created: int) -> dict[str, Any]:
    """A whole response."""
    record, ending = record_of(message), finish_of(message)
    cut = {"length": "max_output_tokens", "content_filter": "content_filter"}.get(ending)
    output: list[dict[str, Any]] = []
    if message.text or not message.tool_calls:
        output.append(_message_item(f"msg_{trace_id}", str(message.text), "completed"))
    for index, call in enumerate(tool_calls_of(message)):
        function = call["function"]
        item = _call_item(f"fc_{trace_id}_{index}", call["id"], function["name"])
        output.append({**item, "arguments": function["arguments"], "status": "completed"})
    return {
        **_frame(trace_id, created, "incomplete" if cut else "completed"),
        "model": served_model(message) or record.get("route"),
        "output": output,
        "incomplete_details": {"reason": cut} if cut else None,
        "usage": _usage(message),
        "xrouter": shown_record(record, trace_id),
    }


def _frame(trace_id: str, created: int, status: str) -> dict[str, Any]:
    return {
        "id": f"resp_{trace_id}",
        "object": "response",
        "created_at": created,
        "status": status,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "output": [],
        "parallel_tool_calls": True,
        "temperature": None,
        "tool_choice": "auto",
        "tools": [],
        "top_p": None,
        "usage": None,
    }


def _usage(message: AIMessage) -> dict[str, Any] | None:
    usage = usage_of(message)
    if usage is None:
        return None
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_input_tokens},
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }


def _message_item(item_id: str, text: str | None, status: str) -> dict[str, Any]:
    content = [] if text is None else [_text_part(text)]
    return {
        "id": item_id,
        "type": "message",
        "role": "assistant",
        "status": status,
        "content": content,
    }


def _text_part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _call_item(item_id: str, call_id: Any, name: Any) -> dict[str, Any]:
    return {
        "id": item_id,
        "type": "function_call",
        "call_id": call_id,
        "name": name,
        "arguments": "",
        "status": "in_progress",
    }


class ResponseStream:
    """Chunks in, numbered events out: each item is opened, filled and closed."""

    def __init__(self, trace_id: str, created: int) -> None:
        self._trace_id, self._created = trace_id, created
        self._number = 0
        self._texts: list[str] = []
        self._text_at: int | None = None
        self._calls: dict[Any, tuple[int, dict[str, Any]]] = {}
        self._items = 0

    def begin(self, model: str) -> bytes:
        """The response is there and says nothing yet."""
        frame = {**_frame(self._trace_id, self._created, "in_progress"), "model": model}
        return self._event("response.created", response=frame) + self._event(
            "response.in_progress", response=frame
        )

    def take(self, chunk: AIMessageChunk) -> bytes:
        """The events of one chunk."""
        data = self._text(str(chunk.text)) if chunk.text else b""
        for call in chunk.tool_call_chunks:
            data += self._call(call)
        return data

    def finish(self, body: dict[str, Any]) -> bytes:
        """What is open is closed; the whole response comes last."""
        data = b""
        if self._text_at is None and not self._calls:
            data += self._open_text()
        if self._text_at is not None:
            data += self._close_text()
        for place, item in self._calls.values():
            whole = {**item, "status": "completed"}
            data += self._event(
                "response.function_call_arguments.done",
                item_id=item["id"], output_index=place, name=item["name"],
                arguments=item["arguments"],
            )  # fmt: skip
            data += self._event("response.output_item.done", output_index=place, item=whole)
        # The items as the events have named and ordered them.
        places = {place: {**item, "status": "completed"} for place, item in self._calls.values()}
        if self._text_at is not None:
            text = "".join(self._texts)
            places[self._text_at] = _message_item(self._text_id, text, "completed")
        body = {**body, "output": [places[place] for place in sorted(places)]}
        return data + self._event(f"response.{body['status']}", response=body)

    @property
    def _text_id(self) -> str:
        return f"msg_{self._trace_id}"

    def _text(self, text: str) -> bytes:
        data = self._open_text() if self._text_at is None else b""
        self._texts.append(text)
        return data + self._event(
            "response.output_text.delta", **self._in_text(), delta=text, logprobs=[]
        )

    def _open_text(self) -> bytes:
        self._text_at, self._items = self._items, self._items + 1
        item = _message_item(self._text_id, None, "in_progress")
        return self._event(
            "response.output_item.added", output_index=self._text_at, item=item
        ) + self._event("response.content_part.added", **self._in_text(), part=_text_part(""))

    def _close_text(self) -> bytes:
        text = "".join(self._texts)
        item = _message_item(self._text_id, text, "completed")
        return (
            self._event("response.output_text.done", **self._in_text(), text=text, logprobs=[])
            + self._event("response.content_part.done", **self._in_text(), part=_text_part(text))
            + self._event("response.output_item.done", output_index=self._text_at, item=item)
        )

    def _in_text(self) -> dict[str, Any]:
        return {"item_id": self._text_id, "output_index": self._text_at, "content_index": 0}

    def _call(self, call: Mapping[str, Any]) -> bytes:
        index = call.get("index")
        key = (call.get("id") or len(self._calls)) if index is None else index
        data = b""
        if key not in self._calls:
            place, self._items = self._items, self._items + 1
            item_id = f"fc_{self._trace_id}_{len(self._calls)}"
            item = _call_item(item_id, call.get("id"), call.get("name"))
            self._calls[key] = place, item
            data += self._event("response.output_item.added", output_index=place, item={**item})
        place, item = self._calls[key]
        if args := call.get("args"):
            item["arguments"] += args
            data += self._event(
                "response.function_call_arguments.delta",
                item_id=item["id"], output_index=place, delta=args,
            )  # fmt: skip
        return data

    def _event(self, kind: str, **fields: Any) -> bytes:
        number, self._number = self._number, self._number + 1
        return event({"type": kind, "sequence_number": number, **fields}, kind)
