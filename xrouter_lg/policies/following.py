"""A policy that follows an alias: `xrouter promote` and `xrouter rollback` take effect in running
processes, and no request waits for it.

The alias file is looked at about once a second, when a request comes. Where it has moved, the new
checkpoint is verified and loaded by a thread of its own while requests go on with the old one; a
checkpoint that can't be loaded leaves things as they are, and is tried again when the alias moves
once more or after a minute.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from decimal import Decimal
from pathlib import Path

from xrouter_lg.checkpoints.aliases import resolve_checkpoint
from xrouter_lg.checkpoints.folder import MANIFEST_FILE
from xrouter_lg.policies.base import BasePolicy
from xrouter_lg.policies.trained import TrainedPolicy
from xrouter_lg.pool.card import ModelCard
from xrouter_lg.types import Proposal, RouteRequest

_log = logging.getLogger(__name__)

_LOOK_EVERY_S = 1.0
_RETRY_S = 60.0


def followed(path: str | Path, build: Callable[[Path], TrainedPolicy]) -> BasePolicy:
    """The policy of a checkpoint's folder, or one that follows the alias of this name.

    Raises:
        CheckpointError, AliasError: neither is there, or what it points to can't be built.
    """
    where = Path(path).expanduser()
    policy = build(resolve_checkpoint(where))
    if where.joinpath(MANIFEST_FILE).is_file():
        return policy
    return FollowingPolicy(where, build, policy)


class FollowingPolicy(BasePolicy):
    """The policy that an alias points to today. ``build`` makes one of a checkpoint's folder."""

    def __init__(
        self, alias: Path, build: Callable[[Path], TrainedPolicy], first: TrainedPolicy
    ) -> None:
        self._alias, self._build = alias, build
        self._current = first
        self._used: ContextVar[str | None] = ContextVar("used", default=None)
        self._lock = threading.Lock()
        self._mark = self._read_mark()
        self._looked = time.monotonic()
        self._failed_at: float | None = None
        self._loading: threading.Thread | None = None

    @property
    def current(self) -> TrainedPolicy:
        """The policy that answers new requests."""
        return self._current

    @property
    def name(self) -> str:  # type: ignore[override]  # what answers changes
        return self._current.name

    @property
    def version(self) -> str:  # type: ignore[override]
        """Of the checkpoint that answered the request at hand, else of the one that would."""
        return self._used.get() or self._current.version

    @property
    def timeout_s(self) -> float:  # type: ignore[override]
        return self._current.timeout_s

    @property
    def orchestrates(self) -> bool:  # type: ignore[override]  # another kind may follow
        return self._current.orchestrates

    async def propose(self, request: RouteRequest, candidates: Sequence[ModelCard]) -> Proposal:
        self._look()
        policy = self._current
        # The router asks for the version afterwards, when another may have taken over.
        self._used.set(policy.version)
        return await policy.propose(request, candidates)

    def worst_case_usd(
        self, request: RouteRequest, candidates: Sequence[ModelCard]
    ) -> Decimal | None:
        return self._current.worst_case_usd(request, candidates)

    def warm_up(self) -> None:
        """Load the model, or check the server, so that the first request does not wait."""
        self._current.warm_up()

    def close(self) -> None:
        """Let go of the model."""
        self._current.close()

    def _read_mark(self) -> tuple[int, int] | None:
        """Changes whenever the alias file is replaced."""
        try:
            stat = self._alias.with_name(f"{self._alias.name.removesuffix('.json')}.json").stat()
        except OSError:
            return None
        return stat.st_mtime_ns, stat.st_ino

    def _look(self) -> None:
        now = time.monotonic()
        if now - self._looked < _LOOK_EVERY_S:
            return
        with self._lock:
            if now - self._looked < _LOOK_EVERY_S:
                return
            self._looked = now
            if self._loading is not None and self._loading.is_alive():
                return
            mark = self._read_mark()
            again = self._failed_at is not None and now - self._failed_at > _RETRY_S
            if mark is None or (mark == self._mark and not again):
                return
            self._mark, self._failed_at = mark, None
            # Not a daemon: a process that ends while torch is imported would crash.
            self._loading = threading.Thread(target=self._follow, name="xrouter-alias")
            self._loading.start()

    def _follow(self) -> None:
        try:
            target = resolve_checkpoint(self._alias)
            policy = self._build(target)
            if policy.version == self._current.version:
                return
            policy.warm_up()
        except Exception as error:
            self._failed_at = time.monotonic()
            _log.warning(
                "alias %s: stays with version %s, because the new one can't be used: %s",
                self._alias,
                self._current.version,
                error,
            )
            return
        _log.info(
            "alias %s: version %s follows %s", self._alias, policy.version, self._current.version
        )
        # Requests that have the old one keep it; behind the last of them it frees itself.
        self._current = policy
