"""A checkpoint's language model in this process: transformers on a CPU, run by one thread.

The candidate block is the same for every request, so its keys and values are computed once.
Requests that arrive together share a pass: their questions stand one behind the other in a single
row, each looking only at the block and at itself, so nothing is padded and the block is not copied
per request.
"""

from __future__ import annotations

import atexit
import logging
import queue
import threading
import time
import weakref
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Literal

from xrouter_lg.calls.failures import describe
from xrouter_lg.checkpoints.identity import check_base
from xrouter_lg.checkpoints.manifest import CheckpointError, Manifest
from xrouter_lg.errors import PolicyError
from xrouter_lg.extras import need
from xrouter_lg.policies.slots.prompts import Block, SlotPrompts
from xrouter_lg.prompts import slots

_log = logging.getLogger(__name__)

Dtype = Literal["float32", "bfloat16"]

MAX_QUEUED = 256
"""Requests that may wait; more are refused, and the router falls back."""
_MAX_BATCH = 32
"""Requests that share one pass."""
_MAX_TOKENS = 1024
"""Tokens of one pass, unless one question alone is longer: attention grows with their square."""
_PATIENCE_S = 0.005
_PURPOSE = "a checkpoint in this process"
_AGREEMENT = {"float32": 1e-2, "bfloat16": 1.0}
"""Nats by which the shortened pass may differ from the model's own forward."""

Logits = Sequence[Sequence[float]]
"""Logits of the slots and anchor of each block that is read."""
_Job = tuple[list[int], Sequence[int], "Future[Logits]"]
"""Token ids of a question, the blocks it is read behind, and where its logits go."""


class Engine:
    """Model, cached prefixes and the one thread that runs them. Loading takes seconds.

    ``source`` holds the checkpoint's files; ``base`` is the folder of the base model, for an
    adapter. ``cache_prefix=False`` computes the candidate block anew for every request, which is
    only good for measuring what the cache saves.

    Raises:
        CheckpointError: another base or tokenizer than the manifest names, or an architecture
            that this engine does not compute as the model itself does.
        MissingExtraError: torch, transformers or peft is not installed.
    """

    _queue: queue.SimpleQueue[_Job | None]
    _thread: threading.Thread
    _closed: bool

    def __init__(
        self,
        manifest: Manifest,
        source: Path,
        base: Path | None,
        *,
        threads: int | None = None,
        dtype: Dtype = "float32",
        cache_prefix: bool = True,
    ) -> None:
        self._torch = need("torch", _PURPOSE)
        self._transformers = need("transformers", _PURPOSE)
        if threads is not None:
            self._torch.set_num_threads(threads)
        self.prompts = SlotPrompts(manifest, source)
        self._dtype = dtype
        self._model = load_model(manifest, source, base, dtype, _PURPOSE)
        self._decoder = self._model.get_decoder()
        weight = self._model.get_output_embeddings().weight
        self._heads = [weight[list(block.slot_ids)].float().T for block in self.prompts.blocks]
        self._prefixes: list[Any] = [None] * len(self.prompts.blocks)
        if cache_prefix:
            self._prefixes = [self._run_prefix(block) for block in self.prompts.blocks]
        self._check_shortcut()
        self._start()

    def submit(self, question_ids: list[int], blocks: Sequence[int]) -> Future[Logits]:
        """Queue a question to be read behind ``blocks``.

        Raises:
            PolicyError: too many wait already, or the engine is closed.
        """
        future: Future[Logits] = Future()
        if not self._put((question_ids, blocks, future)):
            raise PolicyError(f"{MAX_QUEUED} requests wait for the router model already")
        return future

    def submit_patiently(self, question_ids: list[int], blocks: Sequence[int]) -> Future[Logits]:
        """Queue a question; waits while the queue is full."""
        future: Future[Logits] = Future()
        while not self._put((question_ids, blocks, future)):
            time.sleep(_PATIENCE_S)
        return future

    def contrasts_of(self, questions: Sequence[str]) -> list[list[float]]:
        """``logit(slot) - logit(anchor)`` of every trained card on rendered questions."""
        every = range(len(self.prompts.blocks))
        waiting = [
            self.submit_patiently(self.prompts.question_ids(text), every) for text in questions
        ]
        return [
            [value - row[-1] for row in future.result() for value in row[:-1]] for future in waiting
        ]

    def stop(self) -> None:
        """Let the thread end behind the requests that wait; does not wait for it."""
        with self._guard:
            closed, self._closed = self._closed, True
        if not closed:
            self._queue.put(None)

    def close(self) -> None:
        """Stop the thread; requests that wait are answered first."""
        self.stop()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def revive(self) -> None:
        """Start over in a forked process, which has the model but not the thread."""
        self._start()

    def _start(self) -> None:
        # Both may be entered again by a thread that is inside: a policy that is garbage closes its
        # engine from wherever the collector happens to run.
        self._queue = queue.SimpleQueue()
        self._guard = threading.RLock()
        self._waiting = 0
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="xrouter-policy", daemon=True)
        self._thread.start()
        _running.add(self)

    def _put(self, job: _Job) -> bool:
        """Whether there was room."""
        with self._guard:
            if self._closed:
                raise PolicyError("the policy was closed")
            if self._waiting >= MAX_QUEUED:
                return False
            self._waiting += 1
            self._queue.put(job)
            return True

    def _take(self, *, block: bool) -> _Job | None:
        job = self._queue.get(block=block)
        with self._guard:
            self._waiting -= job is not None
        return job

    def _work(self) -> None:
        waiting: _Job | None = None
        while True:
            first = waiting or self._take(block=True)
            if first is None:
                return
            jobs, waiting, stop = self._gather(first)
            # A request that timed out has cancelled its future: nobody waits for its answer.
            live = [job for job in jobs if job[-1].set_running_or_notify_cancel()]
            if live:
                self._answer(live)
            if stop:
                return

    def _gather(self, first: _Job) -> tuple[list[_Job], _Job | None, bool]:
        """Jobs of the next pass, one that no longer fits, and whether to stop behind them."""
        jobs, tokens = [first], len(first[0])
        while len(jobs) < _MAX_BATCH:
            try:
                job = self._take(block=False)
            except queue.Empty:
                break
            if job is None:
                return jobs, None, True
            tokens += len(job[0])
            if tokens > _MAX_TOKENS:
                return jobs, job, False
            jobs.append(job)
        return jobs, None, False

    def _answer(self, jobs: Sequence[_Job]) -> None:
        found: list[dict[int, Sequence[float]]] = [{} for _ in jobs]
        try:
            for at in range(len(self.prompts.blocks)):
                rows = [row for row, (_, blocks, _) in enumerate(jobs) if at in blocks]
                if rows:
                    logits = self._pass(at, [jobs[row][0] for row in rows])
                    for row, own in zip(rows, logits, strict=True):
                        found[row][at] = own
        except Exception as error:
            for *_, future in jobs:
                future.set_exception(error)
            return
        for by_block, (_, blocks, future) in zip(found, jobs, strict=True):
            future.set_result([by_block[at] for at in blocks])

    def _pass(self, at: int, questions: Sequence[list[int]]) -> Logits:
        """Logits [question, slot] behind one block."""
        torch, prefix = self._torch, self._prefixes[at]
        block = self.prompts.blocks[at]
        seen = 0 if prefix is None else len(block.prefix_ids)
        head = () if prefix is not None else block.prefix_ids
        rows = [[*head, *ids] for ids in questions]
        lengths = torch.tensor([len(row) for row in rows])
        tokens_1_T = torch.tensor([[token for row in rows for token in row]])
        positions_1_T = torch.cat([torch.arange(len(row)) for row in rows])[None] + seen
        with torch.inference_mode():
            hidden_1_T_D = self._decoder(
                input_ids=tokens_1_T,
                attention_mask=self._mask(lengths, seen),
                position_ids=positions_1_T,
                past_key_values=None if prefix is None else self._shared(prefix),
                use_cache=prefix is not None,
            ).last_hidden_state
            last = lengths.cumsum(0) - 1
            logits_Q_S = hidden_1_T_D[0, last].float() @ self._heads[at]
        logits: Logits = logits_Q_S.tolist()
        return logits

    def _mask(self, lengths: Any, seen: int) -> Any:
        """True where a token may look: the block, and what comes before it in its own question."""
        torch = self._torch
        if len(lengths) == 1 and seen == 0:
            return None
        row_T = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
        own_T_T = (row_T[:, None] == row_T[None, :]).tril()
        block_T_P = torch.ones(len(row_T), seen, dtype=torch.bool)
        return torch.cat([block_T_P, own_T_T], dim=1)[None, None]

    def _run_prefix(self, block: Block) -> Any:
        cache = self._transformers.DynamicCache()
        with self._torch.inference_mode():
            tokens = self._torch.tensor([block.prefix_ids])
            self._decoder(input_ids=tokens, past_key_values=cache, use_cache=True)
        return cache

    def _shared(self, prefix: Any) -> Any:
        """A cache that begins with the prefix's tensors, which stay as they are."""
        cache = self._transformers.DynamicCache()
        for index, layer in enumerate(prefix.layers):
            cache.update(layer.keys, layer.values, index)
        return cache

    def _check_shortcut(self) -> None:
        """The pass above leaves out what some architectures do (a bias or cap on the logits,
        windows of attention): refuse those rather than route by something else."""
        torch = self._torch
        ids = self.prompts.question_ids(slots.render_question([_hello()]))
        for at, block in enumerate(self.prompts.blocks):
            with torch.inference_mode():
                tokens = torch.tensor([[*block.prefix_ids, *ids]])
                logits_V = self._model(input_ids=tokens, logits_to_keep=1).logits[0, -1]
            expected = (logits_V.float()[list(block.slot_ids)]).tolist()
            # Two of them, so that one looking at the other would show.
            for found in self._pass(at, [ids, ids]):
                worst = max(
                    abs((one - found[-1]) - (other - expected[-1]))
                    for one, other in zip(found, expected, strict=True)
                )
                if not worst <= _AGREEMENT[self._dtype]:
                    raise CheckpointError(
                        f"a {type(self._model).__name__} is not served right in process: its "
                        f"log-odds differ by {worst:.3g} from the model's own. Serve this "
                        "checkpoint with vLLM or llama.cpp"
                    )


_running: weakref.WeakSet[Engine] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    # A thread that the interpreter cuts off inside torch may take the process down with it.
    for engine in list(_running):
        engine.close()


def load_model(
    manifest: Manifest, source: Path, base: Path | None, dtype: str, purpose: str
) -> Any:
    """The language model of the checkpoint in ``source``, an adapter merged into its ``base``.

    Raises:
        CheckpointError: another base than the manifest names, or files that can't be loaded.
        MissingExtraError: torch, transformers or peft is not installed for this ``purpose``.
    """
    torch, transformers = need("torch", purpose), need("transformers", purpose)
    adapter = manifest.model.weights == "adapter"
    folder = base if adapter else source
    assert folder is not None
    if adapter:
        check_base(manifest, folder)
    peft = need("peft", purpose) if adapter else None
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            str(folder), dtype=torch.float32, use_safetensors=True, local_files_only=True
        )
        if peft is not None:
            model = peft.PeftModel.from_pretrained(model, str(source)).merge_and_unload()
    except Exception as error:  # each library has errors of its own for each kind of damage
        raise CheckpointError(
            f"the language model of checkpoint {str(source)!r} can't be loaded: "
            f"{describe(error)}; copy it again"
        ) from error
    # Merged in float32 whatever it runs in: an adapter's changes are small.
    return model.to(getattr(torch, dtype)).eval().requires_grad_(False)


def _hello() -> Any:
    from langchain_core.messages import HumanMessage

    return HumanMessage("hello")
