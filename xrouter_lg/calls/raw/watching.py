"""A chat model's class that asks through a client of ours, which notes what the class drops.

Only what is awaited is watched: every attempt at a card is.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

from xrouter_lg.calls.raw.cut_calls import marking_cut_calls
from xrouter_lg.errors import XRouterError
from xrouter_lg.said.message import mapping

Noted = Callable[[Any, Any], Any]
"""What becomes of a result or a chunk, given the client that has watched it come."""


class ErrorInAnswerError(XRouterError):
    """A provider's error in a response of status 200, where its class looks for an answer.
    ``body`` is the error in the provider's own words."""

    def __init__(self, body: Any) -> None:
        told = mapping(body)
        said = next((told[name] for name in _WORDS if told.get(name)), None)
        super().__init__(str(said or body))
        self.body = body


def error_in(said: Any, answer: str) -> Any:
    """The error in a body, in any gateway's form: ``error``, or words (and a code) where nothing
    stands under ``answer``; None where there is none."""
    body = mapping(said)
    error = body.get("error")
    in_words = error is None and not body.get(answer)
    return body if in_words and any(isinstance(body.get(it), str) for it in _WORDS) else error


_WORDS = ("message", "msg", "detail", "error_msg")


def watching(
    kind: Any,
    watch: Callable[[Any], Watcher],
    *,
    chunk: Noted,
    whole: Noted | None = None,
    place: str = "client",
) -> type[Any]:
    """A subclass of ``kind`` each call of which has a client made by ``watch`` from the one in its
    field ``place``. Without ``whole`` a result that is not streamed stays as it is."""

    def watched(model: Any) -> tuple[Any, Watcher]:
        client = watch(getattr(model, place))
        return model.model_copy(update={place: client}), client

    async def _agenerate(self: Any, *args: Any, **kwargs: Any) -> Any:
        model, client = watched(self)
        result = await kind._agenerate(model, *args, **kwargs)
        return result if whole is None else whole(result, client)

    async def _astream(self: Any, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        model, client = watched(self)
        async for each in marking_cut_calls(kind._astream(model, *args, **kwargs)):
            yield chunk(each, client)
        client.ended()

    return in_the_place_of(kind, {it.__name__: it for it in (_agenerate, _astream)})


def in_the_place_of(kind: Any, methods: dict[str, Any]) -> type[Any]:
    """A subclass with some methods of ours. It has the name and module of ``kind``: traces and
    LangChain's serialisation know a class by them."""
    names = {name: getattr(kind, name) for name in ("__module__", "__qualname__", "__doc__")}
    made: type[Any] = type(kind)(
        kind.__name__, (kind,), {**names, **methods, "_keeps_raw_usage": True}
    )
    return made


class Around:
    """Something of a client's that is as it was, but for what a subclass puts in its place."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class Watcher(Around):
    """A client that notes what its answers say. It is asked once."""

    def ended(self) -> None:
        """A stream has come to its end, as far as its class could tell."""
