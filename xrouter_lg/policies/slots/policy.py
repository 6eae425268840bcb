"""A checkpoint of kind ``slots`` as a policy, in process: transformers on this machine.

One policy object serves any number of event loops and threads. The model is loaded by a thread of
its own at the first request (or by :meth:`CheckpointPolicy.warm_up`) and run by another, so an
event loop never waits for either; a forked process goes on with the parent's weights.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import weakref
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

from xrouter_lg.checkpoints.bases import find_base
from xrouter_lg.checkpoints.folder import verify
from xrouter_lg.checkpoints.manifest import CheckpointError
from xrouter_lg.errors import MissingExtraError
from xrouter_lg.policies.slots.probe import check_probe, load_probe
from xrouter_lg.policies.slots.prompts import SlotPolicy, SlotPrompts, SlotReading
from xrouter_lg.policies.slots.torch_engine import Dtype, Engine

_log = logging.getLogger(__name__)

_LASTING = (CheckpointError, MissingExtraError)
"""What trying again does not mend."""


class CheckpointPolicy(SlotPolicy):
    """Routes by a checkpoint that :mod:`training` wrote.

    ``path`` is the checkpoint's folder. ``base`` is the base model of an adapter: a folder, a GGUF
    file or a hub id (see :func:`~xrouter_lg.checkpoints.bases.find_base` for what is tried without
    it). ``threads`` is torch's number of threads, for the whole process. ``dtype="bfloat16"``
    halves memory and is faster on processors that multiply in it.

    Loading takes seconds, longer than the router waits for a proposal on a slow disk: requests
    meanwhile go to the pool's default card. Call :meth:`warm_up` first to avoid that.

    Raises:
        CheckpointError: at construction: no checkpoint, damaged, made for other prompts, or no
            base; at load: another base or tokenizer, or weights that compute something else.
        MissingExtraError: torch, transformers or peft is not installed.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        base: str | Path | None = None,
        threads: int | None = None,
        dtype: Dtype = "float32",
        cache_prefix: bool = True,
    ) -> None:
        folder = Path(path)
        super().__init__(folder, verify(folder, kind="slots"))
        if dtype not in ("float32", "bfloat16"):
            raise CheckpointError(f"dtype is {dtype!r}; it must be 'float32' or 'bfloat16'")
        self._base = find_base(self.manifest, folder, base)
        self._threads, self._dtype, self._cache_prefix = threads, dtype, cache_prefix
        self._lock = threading.Lock()
        self._loading: Future[Engine] | None = None
        _alive.add(self)

    @property
    def prompts(self) -> SlotPrompts:
        return self._engine().result().prompts

    def warm_up(self) -> None:
        """Load the model and run one decision, so that the first request does not wait."""
        self._engine().result().contrasts_of(["<request>\nhello\n</request>\n"])

    async def read(self, question: str, blocks: Sequence[int]) -> SlotReading:
        loading = self._engine()
        if not loading.done():
            # Shielded: a request that gives up must not stop what others wait for.
            await asyncio.shield(asyncio.wrap_future(loading))
        engine = loading.result()
        ids = engine.prompts.question_ids(question)
        values = await asyncio.wrap_future(engine.submit(ids, blocks))
        return engine.prompts.reading(ids, blocks, values)

    def read_many(
        self, questions: Sequence[str], blocks: Sequence[Sequence[int]]
    ) -> list[SlotReading]:
        engine = self._engine().result()
        ids = [engine.prompts.question_ids(question) for question in questions]
        waiting = [
            engine.submit_patiently(own, read) for own, read in zip(ids, blocks, strict=True)
        ]
        return [
            engine.prompts.reading(own, read, future.result())
            for own, read, future in zip(ids, blocks, waiting, strict=True)
        ]

    def close(self) -> None:
        """Stop the model's thread and free the model; requests that wait are answered first. A
        later request loads it again."""
        with self._lock:
            loading, self._loading = self._loading, None
        if loading is not None and loading.exception() is None:
            loading.result().close()

    def _engine(self) -> Future[Engine]:
        """The engine, loaded or being loaded. A load that failed for good is not tried again."""
        with self._lock:
            loading = self._loading
            if loading is not None and loading.done():
                error = loading.exception()
                if error is not None and not isinstance(error, _LASTING):
                    loading = None
            if loading is None:
                loading = self._loading = Future()
                # Not a daemon: a process that ends while torch is imported would crash.
                threading.Thread(
                    target=self._load, args=(loading,), name="xrouter-policy-load"
                ).start()
            return loading

    def _load(self, loading: Future[Engine]) -> None:
        try:
            engine = Engine(
                self.manifest,
                self.path,
                self._base,
                threads=self._threads,
                dtype=self._dtype,
                cache_prefix=self._cache_prefix,
            )
            probe = load_probe(self.path, self.manifest)
            if probe is not None:
                check_probe(probe, engine.contrasts_of(probe.questions), "this process")
        except BaseException as error:
            _log.warning("checkpoint %s can't be loaded: %s", self.path, error)
            loading.set_exception(error)
            return
        # When nobody holds the policy any more the model is freed; at exit the engine sees to it.
        weakref.finalize(self, engine.stop).atexit = False
        loading.set_result(engine)

    def _after_fork(self) -> None:
        """In a forked process: no thread but this one has survived, and a lock may be held."""
        self._lock = threading.Lock()
        loading = self._loading
        if loading is None:
            return
        if loading.done() and loading.exception() is None:
            loading.result().revive()
        else:
            self._loading = None


_alive: weakref.WeakSet[CheckpointPolicy] = weakref.WeakSet()


def _revive_all() -> None:
    for policy in list(_alive):
        policy._after_fork()


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_revive_all)
