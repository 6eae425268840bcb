"""Models as an app hands them in, before they are cards."""

from __future__ import annotations

import re
from collections.abc import Collection


def short(value: object) -> str:
    """A value for an error message: a text as it is, of anything else its type alone, since a
    model's repr is long and may hold what nobody should read."""
    return (
        repr(value) if isinstance(value, str | int | float | None) else f"a {type(value).__name__}"
    )


_NO_NAME = re.compile(r"[^a-z0-9]+")


def free_name(model: str, maker: str | None, taken: Collection[str], place: int) -> str:
    """A card's name after its model's, that no other card has."""
    bare = _NO_NAME.sub("_", model.lower()).strip("_")[:50] or f"model_{place}"
    made_by = _NO_NAME.sub("_", maker or "")
    names = [bare, f"{made_by}_{bare}"[:59]] if made_by else [bare]
    return next((name for name in names if name not in taken), f"{bare}_{place}")
