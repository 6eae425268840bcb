"""Pool files: YAML in, and again when the file changes."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from xrouter_lg.errors import PoolError
from xrouter_lg.yaml_text import read_yaml

logger = logging.getLogger(__name__)

CHECK_EVERY_S = 1.0
"""How often a pool file is looked at again, in seconds."""


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

    def _load(self) -> P:
        data = read_yaml(
            self.path,
            "the pool file",
            PoolError,
            missing="name another one, or write a first one with `xrouter init`",
        )
        if data is None:
            raise PoolError(f"the pool file {self.path} is empty; it needs `models:` with a card")
        try:
            return self._build(data, self)
        except PoolError as error:
            raise PoolError(f"{self.path}: {error}") from error
