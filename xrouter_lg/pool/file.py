"""Pool files: YAML in, and again when the file changes."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import yaml

from xrouter_lg.errors import PoolError

logger = logging.getLogger(__name__)

CHECK_EVERY_S = 1.0
"""How often a pool file is looked at again, in seconds."""

MOST_BYTES = 500_000
"""Size of the largest pool file that is read."""


class Versioned(Protocol):
    """What is made of a file: two that differ have different fingerprints."""

    fingerprint: str

    @property
    def names(self) -> tuple[str, ...]: ...


P = TypeVar("P", bound=Versioned)


class PoolFile(Generic[P]):
    """A pool file that is read again when it changes. Thread-safe; never raises after the first
    good read: a broken file keeps the old pool and ``last_error`` says why. ``build`` makes a pool
    of what the file holds."""

    def __init__(
        self, path: Path, build: Callable[[Any, PoolFile[P]], P], *, reload: bool = True
    ) -> None:
        self.path, self.reload, self._build = path, reload, build
        self.last_error: str | None = None
        self._lock = threading.Lock()
        self._stamp = self._read_stamp()
        self._pool = self._load()
        self._next_look = time.monotonic() + CHECK_EVERY_S

    def current(self) -> P:
        """The newest good pool. Costs a clock read, and a ``stat`` at most once a second."""
        if self.reload and time.monotonic() >= self._next_look:
            self._look()
        return self._pool

    def _look(self) -> None:
        if not self._lock.acquire(blocking=False):
            return  # somebody else is looking; this request goes on with what is there
        try:
            self._next_look = time.monotonic() + CHECK_EVERY_S
            stamp = self._read_stamp()
            if stamp == self._stamp:
                return
            self._stamp = stamp
            try:
                pool = self._load()
            except Exception as error:  # a request never fails for a file that is being edited
                self.last_error = str(error) or type(error).__name__
                logger.warning("pool file changed but is not usable, old pool kept: %s", error)
                return
            self.last_error = None
            if pool.fingerprint != self._pool.fingerprint:
                logger.info("pool file %s reloaded: %s", self.path, ", ".join(pool.names))
            self._pool = pool
        finally:
            self._lock.release()

    def _read_stamp(self) -> tuple[int, int] | None:
        try:
            stat = self.path.stat()
        except OSError:
            return None
        return stat.st_mtime_ns, stat.st_size

    def _text(self) -> str:
        with self.path.open("rb") as file:
            raw = file.read(MOST_BYTES + 1)
        if len(raw) > MOST_BYTES:
            raise PoolError(
                f"the pool file {self.path} has more than {MOST_BYTES:,} bytes, and is no pool"
            )
        return raw.decode("utf-8")

    def _load(self) -> P:
        try:
            data = yaml.load(self._text(), Loader=_Loader)  # noqa: S506  a SafeLoader
        except OSError as error:
            fix = "name another one, or write a first one with `xrouter init`"
            raise PoolError(
                f"can't read the pool file {self.path}: {error.strerror}; {fix}"
            ) from error
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise PoolError(f"the pool file {self.path} is not YAML: {_yaml_why(error)}") from None
        if data is None:
            raise PoolError(f"the pool file {self.path} is empty; it needs `models:` with a card")
        try:
            return self._build(data, self)
        except PoolError as error:
            raise PoolError(f"{self.path}: {error}") from error


class _Loader(yaml.SafeLoader):
    """YAML without its traps: a key that stands twice is an error, ``1:30`` and ``010`` are texts
    and not 90 and 8, and what is merged (``<<``) stays small."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._flat: set[int] = set()

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep=deep)
        except (LookupError, AttributeError, TypeError):  # PyYAML's own, of `!!bool x`
            raise _unwanted(node, f"this is no value of the tag {node.tag!r}") from None

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
                        raise _unwanted(key, "the key stands here for the second time")
                    seen.add(key.value)
        super().flatten_mapping(node)
        if len(node.value) > _MOST_KEYS:
            raise _unwanted(node, f"the mapping has more than {_MOST_KEYS} keys")


_MOST_MERGED, _MOST_KEYS = 20, 1_000


def _unwanted(node: Any, what: str) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, what, node.start_mark)


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


def _yaml_why(error: Exception) -> str:
    """Where and why, without the line itself: a key may have been pasted into it."""
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return str(error) if isinstance(error, ValueError) else type(error).__name__
    problem = str(getattr(error, "problem", ""))
    fix = "; indent with spaces" if "'\\t'" in problem else ""
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}{fix}"
