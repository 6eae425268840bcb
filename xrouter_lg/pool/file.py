"""Pool files: YAML in, a checked pool out, and a newer one when the file changes."""

from __future__ import annotations

import difflib
import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from xrouter_lg.errors import PoolError
from xrouter_lg.pool.pool import ModelCard, ModelPool

logger = logging.getLogger(__name__)

CHECK_EVERY_S = 1.0
"""How often a pool file is looked at again, in seconds."""

_OPTIONS = ("default", "on_truncated")
_CARD_KEYS = tuple(f.name for f in fields(ModelCard))


class PoolFile:
    """A pool file that is read again when it changes. Thread-safe; never raises after the first
    good read: a broken file keeps the old pool and ``last_error`` says why."""

    def __init__(self, path: Path, *, reload: bool = True) -> None:
        self.path, self.reload = path, reload
        self.last_error: str | None = None
        self._lock = threading.Lock()
        self._stamp = self._read_stamp()
        self._pool = self._load()
        self._next_look = time.monotonic() + CHECK_EVERY_S

    def current(self) -> ModelPool:
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

    def _load(self) -> ModelPool:
        try:
            data = yaml.safe_load(self.path.read_text(encoding="utf-8"))
        except OSError as error:
            raise PoolError(f"can't read the pool file {self.path}: {error.strerror}") from error
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise PoolError(f"the pool file {self.path} is not YAML: {_yaml_why(error)}") from None
        if data is None:
            raise PoolError(f"the pool file {self.path} is empty; it needs `models:` with a card")
        try:
            return ModelPool.from_dict(data, source=self)
        except PoolError as error:
            raise PoolError(f"{self.path}: {error}") from error


def cards_from(data: object) -> tuple[list[ModelCard], dict[str, Any]]:
    """The cards and the pool's options out of a pool file's mapping.

    Raises:
        PoolError: an unknown key (with the nearest known one), a missing one, or a bad value.
    """
    if not isinstance(data, Mapping):
        raise PoolError(f"a pool is a mapping with `models:`, not {type(data).__name__}")
    _refuse_unknown(data, ("models", *_OPTIONS), "the pool")
    models = data.get("models")
    if not isinstance(models, list) or not models:
        raise PoolError("`models` must be a list with at least one card")
    cards = []
    for index, entry in enumerate(models):
        where = f"models[{index}]"
        if not isinstance(entry, Mapping):
            raise PoolError(f"{where} is {entry!r}; it must be a mapping with name and model")
        _refuse_unknown(entry, _CARD_KEYS, where)
        for key in ("name", "model"):
            if entry.get(key) is None:
                raise PoolError(f"{where} has no `{key}`")
        values = {key: value for key, value in entry.items() if value is not None}
        cards.append(ModelCard(**values))
    return cards, {key: data[key] for key in _OPTIONS if data.get(key) is not None}


def _yaml_why(error: Exception) -> str:
    """Where and why, without the line itself: a key may have been pasted into it."""
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return str(error) if isinstance(error, ValueError) else type(error).__name__
    return f"line {mark.line + 1}, column {mark.column + 1}: {getattr(error, 'problem', '')}"


def _refuse_unknown(data: Mapping[Any, Any], known: tuple[str, ...], where: str) -> None:
    for key in data:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"
            raise PoolError(f"{where}: unknown key {key!r}{hint}")
