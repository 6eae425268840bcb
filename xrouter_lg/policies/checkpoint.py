# ruff: noqa: N806 (tensors carry their dimensions in the name)
"""A trained checkpoint as a policy, in process: transformers on this machine.

The candidate block is the same for every request, so its keys and values are computed once; a
request costs one pass over its question. Requests that arrive together share a pass: a single
worker thread takes what has queued up, so the event loop is never blocked and one policy object
serves any number of loops and threads.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xrouter_lg.checkpoint import (
    BaseIdentity,
    CheckpointError,
    Manifest,
    check_base,
    slot_token_ids,
    tokenizer_hash,
    verify,
    weights_digest,
)
from xrouter_lg.errors import MissingExtraError
from xrouter_lg.policies.base import BasePolicy
from xrouter_lg.policies.slot_utility import Utilities, load_head, utilities
from xrouter_lg.pool import ModelCard
from xrouter_lg.prompts import slots
from xrouter_lg.types import Proposal, RouteRequest

_log = logging.getLogger(__name__)

_MAX_BATCH = 16
"""Requests that share one pass."""
_MAX_QUEUED = 256
"""Requests that may wait; more are refused, and the router falls back."""


class CheckpointPolicy(BasePolicy):
    """Routes by a checkpoint that :mod:`training` wrote.

    ``path`` is the checkpoint's folder. ``base`` is the folder of the base model and only needed
    for an adapter. The model is loaded at the first request, or by :meth:`warm_up`.

    Raises:
        CheckpointError: at construction: no checkpoint, damaged, or made for other prompts; at
            load: another base or tokenizer.
        MissingExtraError: torch, transformers or peft is not installed.
    """

    name = "checkpoint"

    def __init__(
        self, path: str | Path, *, base: str | Path | None = None, threads: int | None = None
    ) -> None:
        self.path = Path(path)
        self.manifest: Manifest = verify(self.path)
        self.version = self.manifest.version
        self._head = load_head(self.manifest, self.path)
        if self.manifest.weights == "adapter" and base is None:
            raise CheckpointError(
                f"checkpoint {str(path)!r} is an adapter for {self.manifest.base.model_id!r}; give "
                "base=FOLDER of that model, or export the checkpoint merged"
            )
        self._base = None if base is None else Path(base)
        self._threads = threads
        self._engine: _Engine | None = None
        self._lock = threading.Lock()

    def warm_up(self) -> None:
        """Load the model and run one decision, so that the first request does not wait."""
        self._loaded().submit("<request>\nhello\n</request>\n").result()

    async def propose(self, request: RouteRequest, candidates: Sequence[ModelCard]) -> Proposal:
        """Success probability and expected cost of each candidate; the highest utility first."""
        engine = self._engine
        if engine is None:
            engine = await asyncio.to_thread(self._loaded)
        question = slots.render_question(request.messages)
        reading = await asyncio.wrap_future(engine.submit(question))
        weight = self.cost_weight(request)
        names = [card.name for card in self.manifest.cards]
        contrasts = dict(zip(names, reading.contrasts, strict=True))
        found = utilities(self.manifest, contrasts, request, candidates, weight, self._head)
        return Proposal(
            found.probabilities,
            reason=_reason(found, weight),
            quality=found.quality,
            prompt_hash=self.manifest.prompt_hash,
            token_ids={
                "prompt_token_ids": [*engine.prefix_ids, *reading.question_ids],
                "completion_token_ids": [engine.slot_ids[reading.top]],
                "logprobs": reading.logprobs,
            },
        )

    def cost_weight(self, request: RouteRequest) -> float:
        """λ of a request: what the dial says for its quality target, else its own weight."""
        if request.quality_target is not None and self.manifest.dial:
            return self.manifest.weight_for_quality(request.quality_target)
        return request.cost_weight

    def close(self) -> None:
        """Stop the worker thread; requests that wait are answered first."""
        with self._lock:
            if self._engine is not None:
                self._engine.close()
                self._engine = None

    def _loaded(self) -> _Engine:
        with self._lock:
            if self._engine is None:
                self._engine = _Engine(self.manifest, self.path, self._base, self._threads)
            return self._engine


@dataclass(frozen=True, slots=True)
class _Reading:
    """What one pass gave for one question."""

    question_ids: list[int]
    contrasts: list[float]
    logprobs: dict[str, float]
    """Log probability by letter, renormalised over card slots and anchor."""
    top: int
    """Index of the most probable card slot."""


_Job = tuple[list[int], "Future[_Reading]"]


class _Engine:
    """Model, cached prefix and the one thread that runs them."""

    def __init__(
        self, manifest: Manifest, path: Path, base: Path | None, threads: int | None
    ) -> None:
        self._torch = _need("torch")
        transformers = _need("transformers")
        source = path if manifest.weights == "merged" else base
        assert source is not None
        if threads is not None:
            self._torch.set_num_threads(threads)
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(str(path))
        self._check_tokenizer(manifest)
        model = transformers.AutoModelForCausalLM.from_pretrained(
            str(source), dtype=self._torch.float32, use_safetensors=True
        )
        if manifest.weights == "adapter":
            check_base(manifest, _identity(manifest, source, self._tokenizer))
            adapted = _need("peft").PeftModel.from_pretrained(model, str(path))
            model = adapted.merge_and_unload()
        self._model = model.eval().requires_grad_(False)
        self._dynamic_cache: Any = transformers.DynamicCache
        ids = slot_token_ids(self._tokenizer)
        self._letters = [*slots.CARD_SLOTS[: len(manifest.cards)], slots.ANCHOR_SLOT]
        self.slot_ids = [ids[letter] for letter in self._letters]
        prefix = slots.render_prefix([card.line for card in manifest.cards])
        self.prefix_ids: list[int] = self._encode(prefix)
        self._prefix = self._run_prefix()
        self._queue: queue.Queue[_Job | None] = queue.Queue(maxsize=_MAX_QUEUED)
        self._thread = threading.Thread(target=self._work, name="xrouter-policy", daemon=True)
        self._thread.start()

    def submit(self, question: str) -> Future[_Reading]:
        """Queue a question; raises ``queue.Full`` when too many wait already."""
        future: Future[_Reading] = Future()
        self._queue.put_nowait((self._encode(question), future))
        return future

    def close(self) -> None:
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        stop = False
        while not stop:
            jobs = [self._queue.get()]
            while len(jobs) < _MAX_BATCH and not self._queue.empty():
                jobs.append(self._queue.get())
            stop = None in jobs
            # A request that timed out has cancelled its future: nobody waits for its answer.
            live = [j for j in jobs if j is not None and j[1].set_running_or_notify_cancel()]
            if not live:
                continue
            try:
                readings = self._read([ids for ids, _ in live])
            except Exception as error:
                for _, future in live:
                    future.set_exception(error)
                continue
            for (_, future), reading in zip(live, readings, strict=True):
                future.set_result(reading)

    def _read(self, questions: list[list[int]]) -> list[_Reading]:
        torch, seen = self._torch, len(self.prefix_ids)
        batch, width = len(questions), max(map(len, questions))
        tokens_B_T = torch.zeros(batch, width, dtype=torch.long)
        mask_B_P_T = torch.ones(batch, seen + width, dtype=torch.long)
        for row, ids in enumerate(questions):
            tokens_B_T[row, : len(ids)] = torch.tensor(ids)
            mask_B_P_T[row, seen + len(ids) :] = 0
        with torch.inference_mode():
            hidden = self._model.model(
                input_ids=tokens_B_T,
                attention_mask=mask_B_P_T,
                position_ids=(torch.arange(width) + seen)[None].expand(batch, -1),
                past_key_values=self._expanded(batch),
                use_cache=True,
            ).last_hidden_state
            last = torch.tensor([len(ids) - 1 for ids in questions])
            head = self._model.get_output_embeddings().weight[self.slot_ids]
            logits = hidden[torch.arange(batch), last].float() @ head.float().T
            logprobs = torch.log_softmax(logits, dim=-1).tolist()
        return [
            _Reading(
                question_ids=ids,
                contrasts=[value - row[-1] for value in row[:-1]],
                logprobs=dict(zip(self._letters, row, strict=True)),
                top=max(range(len(row) - 1), key=row.__getitem__),
            )
            for ids, row in zip(questions, logprobs, strict=True)
        ]

    def _run_prefix(self) -> Any:
        cache = self._dynamic_cache()
        with self._torch.inference_mode():
            tokens = self._torch.tensor([self.prefix_ids])
            self._model.model(input_ids=tokens, past_key_values=cache, use_cache=True)
        return cache

    def _expanded(self, batch: int) -> Any:
        cache = self._dynamic_cache()
        for index, layer in enumerate(self._prefix.layers):
            keys = layer.keys.expand(batch, -1, -1, -1)
            cache.update(keys, layer.values.expand(batch, -1, -1, -1), index)
        return cache

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
        return ids

    def _check_tokenizer(self, manifest: Manifest) -> None:
        found = tokenizer_hash(self._tokenizer)
        if found != manifest.base.tokenizer_sha256:
            raise CheckpointError(
                f"the checkpoint's tokenizer has hash {found[:12]}..., the manifest says "
                f"{manifest.base.tokenizer_sha256[:12]}...: its files were changed, or this "
                "version of transformers reads them otherwise; copy it again or train again"
            )


def _identity(manifest: Manifest, folder: Path, tokenizer: Any) -> BaseIdentity:
    return BaseIdentity(
        model_id=str(folder),
        sha256=weights_digest(folder),
        tokenizer_sha256=tokenizer_hash(tokenizer),
        layers=manifest.base.layers,
        hidden_size=manifest.base.hidden_size,
    )


def _need(module: str) -> Any:
    # By name: the package itself must not depend on what an extra brings.
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(module, "train", "a checkpoint in this process") from error


def _reason(found: Utilities, cost_weight: float) -> str:
    best = max(found.utility, key=lambda name: found.utility[name])
    return (
        f"expected score {found.quality[best]:.2f} at ${found.cost_usd[best]:.6f}, "
        f"cost weight {cost_weight:g}"
    )
