"""A chat model's class that asks through a client of ours, which notes what the class drops."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

Noted = Callable[[Any, Any], Any]
"""What becomes of a result or a chunk, given the client that has watched it come."""


def watching(
    kind: Any,
    watch: Callable[[Any], Any],
    *,
    whole: Noted,
    chunk: Noted,
    place: str = "client",
    async_place: str = "client",
    async_watch: Callable[[Any], Any] | None = None,
) -> type[Any]:
    """A subclass of ``kind`` each call of which has a client made by ``watch`` (``async_watch``)
    from the one in its field ``place`` (``async_place``)."""
    async_watch = async_watch or watch

    def watched(model: Any, name: str, made_by: Callable[[Any], Any]) -> tuple[Any, Any]:
        client = made_by(getattr(model, name))
        return model.model_copy(update={name: client}), client

    def _generate(self: Any, *args: Any, **kwargs: Any) -> Any:
        model, client = watched(self, place, watch)
        return whole(kind._generate(model, *args, **kwargs), client)

    async def _agenerate(self: Any, *args: Any, **kwargs: Any) -> Any:
        model, client = watched(self, async_place, async_watch)
        return whole(await kind._agenerate(model, *args, **kwargs), client)

    def _stream(self: Any, *args: Any, **kwargs: Any) -> Iterator[Any]:
        model, client = watched(self, place, watch)
        for each in kind._stream(model, *args, **kwargs):
            yield chunk(each, client)

    async def _astream(self: Any, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        model, client = watched(self, async_place, async_watch)
        async for each in kind._astream(model, *args, **kwargs):
            yield chunk(each, client)

    asked = (_generate, _agenerate, _stream, _astream)
    return in_the_place_of(kind, {it.__name__: it for it in asked})


def in_the_place_of(kind: Any, methods: dict[str, Any]) -> type[Any]:
    """A subclass with some methods of ours. It has the name and module of ``kind``: traces and
    LangChain's serialisation know a class by them."""
    names = {name: getattr(kind, name) for name in ("__module__", "__qualname__", "__doc__")}
    made: type[Any] = type(kind)(
        kind.__name__, (kind,), {**names, **methods, "_keeps_raw_usage": True}
    )
    return made
