"""YAML that a person wrote: read without its traps, refused by place and with what to do."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

MOST_BYTES = 500_000
"""Size of the largest file that is read."""

_MOST_MERGED, _MOST_KEYS = 20, 1_000
_MOST_VALUES, _MOST_LEVELS = 100_000, 100


class NotYamlError(ValueError):
    """A text is no YAML that is read here: where, why, and what to do."""


def parse_yaml(text: str) -> Any:
    """The value of a text: ``null`` of an empty one.

    Raises:
        NotYamlError: it is none. The message never repeats the line: a key may have been pasted
            into it.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506  a SafeLoader
    except (yaml.YAMLError, RecursionError) as error:
        raise NotYamlError(_why(error)) from None


def read_yaml(path: Path, what: str, told: Callable[[str], Exception], *, missing: str) -> Any:
    """The value of a file, or the error that ``told`` makes of a message. ``what`` says what the
    file is, ``missing`` what to do where there is none to read."""
    try:
        with path.open("rb") as file:
            raw = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise told(f"can't read {what} {path}: {error.strerror}; {missing}") from error
    if len(raw) > MOST_BYTES:
        raise told(
            f"{what} {path} has more than {MOST_BYTES:,} bytes, and is none; name another one"
        )
    try:
        return parse_yaml(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        why = f"byte {error.start + 1} is no UTF-8; save it as UTF-8"
        raise told(f"{what} {path} is not YAML: {why}") from None
    except NotYamlError as error:
        raise told(f"{what} {path} is not YAML: {error}") from None


class _Loader(yaml.SafeLoader):
    """A key that stands twice is an error, ``1:30`` and ``010`` are texts and not 90 and 8, and
    what is merged (``<<``) or named twice (``*``) stays small."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._flat: set[int] = set()

    def get_single_data(self) -> Any:
        node = self.get_single_node()
        if node is None:
            return None
        _measure(node, {})
        return self.construct_document(node)

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep=deep)
        except (LookupError, AttributeError, TypeError, ValueError):  # PyYAML's own, of `!!bool x`
            what = f"this is no value of the tag {_short(node.tag)}"
            raise _unwanted(node, f"{what}; leave the tag out, or put a text in quotes") from None

    def flatten_mapping(self, node: Any) -> None:
        if id(node) not in self._flat:
            self._flat.add(id(node))
            seen: set[str] = set()
            for key, value in node.value:
                if key.tag == "tag:yaml.org,2002:merge":
                    if len(value.value) > _MOST_MERGED:
                        raise _unwanted(key, f"more than {_MOST_MERGED} mappings are merged here")
                elif isinstance(key, yaml.ScalarNode):
                    if key.value in seen:
                        raise _unwanted(key, "the key stands here for the second time; keep one")
                    seen.add(key.value)
        super().flatten_mapping(node)
        if len(node.value) > _MOST_KEYS:
            raise _unwanted(node, f"the mapping has more than {_MOST_KEYS} keys")

    def refuse_tag(self, node: Any) -> Any:
        raise _unwanted(node, f"the tag {_short(node.tag)} is not known here; leave it out")


_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _NUMBERS]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    _NUMBERS[0], re.compile(r"[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F]+)\Z"), list("-+0123456789")
)
_Loader.add_implicit_resolver(
    _NUMBERS[1],
    re.compile(
        r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|\.[0-9_]+(?:[eE][-+]?[0-9]+)?"
        r"|\.(?:inf|Inf|INF))\Z|\.(?:nan|NaN|NAN)\Z"
    ),
    list("-+0123456789."),
)
_Loader.add_constructor(None, _Loader.refuse_tag)


def _measure(node: Any, known: dict[int, tuple[int, int] | None]) -> tuple[int, int]:
    """How many values a node holds, what is named twice counted twice, and how deep they lie.
    ``known``: of nodes seen before; None while one is being measured."""
    if isinstance(node, yaml.ScalarNode):
        return 1, 0
    if id(node) in known:
        found = known[id(node)]
        if found is None:
            raise _unwanted(node, "this stands inside itself; write it out where it is named")
        return found
    known[id(node)] = None
    inside = [part for pair in node.value for part in pair] if _is_mapping(node) else node.value
    size, depth = 1, 0
    for part in inside:
        more, below = _measure(part, known)
        size, depth = size + more, max(depth, below + 1)
    if size > _MOST_VALUES:
        raise _unwanted(node, f"with what is named twice this holds over {_MOST_VALUES:,} values")
    if depth > _MOST_LEVELS:
        raise _unwanted(node, f"this is nested more than {_MOST_LEVELS} deep")
    known[id(node)] = size, depth
    return size, depth


def _is_mapping(node: Any) -> bool:
    return isinstance(node, yaml.MappingNode)


def _short(tag: str) -> str:
    """A tag as it is written."""
    return repr(tag.replace("tag:yaml.org,2002:", "!!"))


def _unwanted(node: Any, what: str) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, what, node.start_mark)


def _why(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return f"it is nested more than {_MOST_LEVELS} deep"
    if isinstance(error, yaml.reader.ReaderError):
        return f"character {error.position + 1} is none that YAML has; remove it"
    mark = getattr(error, "problem_mark", None)
    problem = str(getattr(error, "problem", "")).replace("but found another", "here is a second")
    if mark is None:
        return problem or type(error).__name__
    fix = "; indent with spaces" if "'\\t'" in problem else ""
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}{fix}"
