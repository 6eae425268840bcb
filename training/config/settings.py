"""What all groups of settings share: no unknown key, no number that was meant as something else."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, Strict, ValidationError

SETTINGS = ConfigDict(extra="forbid")
"""Of every dataclass of settings."""

Whole = Annotated[int, Strict()]
"""An int; ``true`` and ``"two"`` are none."""
Count = Annotated[int, Strict(), Field(ge=1)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Text = Annotated[str, BeforeValidator(lambda value: "" if value is None else value)]
"""A text; ``key=`` on the command line and ``key:`` in a file empty it."""
Location = Annotated[Text, AfterValidator(os.path.expanduser)]
"""A file or a folder; ``~`` is the home folder, which no shell expands behind ``key=``."""

_MUST_BE = {
    "int_type": "it must be int",
    "float_type": "it must be float",
    "float_parsing": "it must be float",
    "bool_type": "it must be bool",
    "bool_parsing": "it must be bool",
    "string_type": "it must be str",
    "dataclass_type": "it must be a mapping",
    "mapping_type": "it must be a mapping",
    "dict_type": "it must be a mapping",
    "tuple_type": "it must be a list of texts",
}


def first_problem(error: ValidationError, known: Mapping[str, Iterable[str]]) -> str:
    """The first thing that is wrong, by its dotted name, with what is allowed. ``known`` has the
    keys of each group, by its own dotted name."""
    details: Any = error.errors(include_url=False)[0]
    parts: list[str] = []
    for part in details["loc"]:
        # Behind a key pydantic names what it tried for it (a member of a union, a place in a list).
        where = ".".join(parts)
        if not isinstance(part, str) or (parts and where not in known):
            break
        parts.append(part)
    name, kind, value = ".".join(parts), details["type"], details["input"]
    if kind == "unexpected_keyword_argument":
        *group, _ = parts
        return f"unknown key {name!r}; known: {', '.join(known['.'.join(group)])}"
    if kind == "value_error":
        text = str(details["ctx"]["error"])
        return text if not name or text.startswith(name) else f"{name}: {text}"
    if kind == "literal_error":
        expected = details["ctx"]["expected"].replace(" or ", ", ")
        return f"{name} is {value!r}; it must be one of {expected}"
    allowed = _MUST_BE.get(kind) or details["msg"].replace("Input should be", "it must be")
    return f"{name} is {value!r}; {allowed}"
