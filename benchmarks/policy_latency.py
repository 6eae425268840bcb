"""How long a decision of a trained checkpoint takes, beside one bare forward pass of its model.

    python benchmarks/policy_latency.py --base FOLDER [--cards 3 10] [--rounds 15]
        [--ways in_process bfloat16 llama_cpp vllm]

The bare pass is ``model(prompt)`` of transformers over the same tokens, in float32, computing the
logits of the last token only: what a decision can't do without, and no more. A decision is the
whole of ``propose``: rendering, tokens, the model, the weighing. Both alternate, question by
question, so that whatever else the machine does falls on both. "no cache" computes the candidate
block for every request; "cached" computes the question only. Then 64 decisions are asked for at
once. The adapter is untrained, which changes no time.

vLLM runs where ``XROUTER_VLLM_PYTHON`` names an interpreter that has it; llama.cpp where xllamacpp
is installed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.util
import itertools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np
import torch
from langchain_core.messages import HumanMessage
from transformers import AutoModelForCausalLM

from benchmarks.results import append, show
from training.config.warm_start import WarmStartConfig
from training.model.base import load_base
from training.model.slots import slot_model
from training.run.export import export
from xrouter_lg import ModelCard
from xrouter_lg.checkpoints.manifest import Manifest
from xrouter_lg.checkpoints.parts import CardStats, LanguageModel
from xrouter_lg.policies.slots.policy import CheckpointPolicy
from xrouter_lg.policies.slots.prompts import SlotPolicy
from xrouter_lg.policies.slots.remote import RemotePolicy
from xrouter_lg.types import RouteRequest

AT_ONCE = 64
WAYS = ("in_process", "bfloat16", "llama_cpp", "vllm")
QUESTION = (
    "A shop sells pencils at {n} cents each and gives one free for every dozen. How much do {m} "
    "pencils cost, and how many does the customer take home? Explain in two sentences."
)


@dataclass(frozen=True)
class Ways:
    """A way of serving, with the block's keys and values kept and without."""

    name: str
    cached: SlotPolicy
    plain: SlotPolicy


def write_checkpoint_of(base: Path, cards: int, folder: Path) -> Path:
    """An untrained adapter for ``cards`` cards with lines of the usual length."""
    loaded = load_base(base)
    slot = slot_model(
        loaded, np.zeros(cards), WarmStartConfig(frozen_layers=2 * loaded.identity.layers // 3)
    )
    stats = tuple(
        CardStats(
            f"card_{i}", f"maths {60 + i}, code {70 + i}, facts {80 + i}", 0.0, 0.0, 100, 1e-4
        )
        for i in range(cards)
    )
    manifest = Manifest(
        kind="slots",
        language_model=LanguageModel(loaded.identity, "adapter"),
        cards=stats,
        c_ref_usd=1e-3,
        best_fixed=stats[-1].name,
    )
    export(folder, slot, loaded, manifest)
    return folder


def requests() -> Iterator[RouteRequest]:
    """Questions of one length, no two alike: what is cached is the block alone."""
    for n in itertools.count(100):
        text = QUESTION.format(n=n, m=1000 - n % 500)
        yield RouteRequest(messages=[HumanMessage(text)], cost_weight=0.3, prompt_tokens=50)


@contextlib.contextmanager
def serving(way: str, checkpoint: Path, base: Path, folder: Path) -> Iterator[Ways]:
    """A way of serving a checkpoint, for the time of the block."""
    if way in ("in_process", "bfloat16"):
        dtype: Any = "bfloat16" if way == "bfloat16" else "float32"
        pair = [
            CheckpointPolicy(checkpoint, base=base, dtype=dtype, cache_prefix=keep)
            for keep in (True, False)
        ]
        for policy in pair:
            policy.warm_up()
        yield Ways(way, *pair)
        for policy in pair:
            policy.close()
        return
    if way == "llama_cpp":
        from integrations.llama_cpp.serve_checkpoint import checkpoint_server

        with checkpoint_server(checkpoint, base=base, folder=folder) as server:
            yield remote(way, server.base_url, checkpoint, None)
        return
    from integrations.vllm.adapters import Adapters
    from integrations.vllm.server import VllmServer

    with VllmServer(base, dtype="float32", options={"block-size": "32"}) as server:
        Adapters(server.base_url, api_key=server.api_key).load(checkpoint, base=base)
        os.environ["XROUTER_BENCH_KEY"] = server.api_key
        yield remote(way, server.base_url, checkpoint, "XROUTER_BENCH_KEY")


def remote(way: Any, url: str, checkpoint: Path, key: str | None) -> Ways:
    pair = [
        RemotePolicy(url, checkpoint, server=way, api_key_env=key, timeout_s=300, cache_prefix=keep)
        for keep in (True, False)
    ]
    return Ways(way, *pair)


async def measure(
    ways: Ways, cards: list[ModelCard], bare: Callable[[list[int]], None], rounds: int
) -> list[str]:
    """A row of the table; times in milliseconds, the last column in decisions per second."""
    asked = requests()
    times: dict[str, list[float]] = {"bare": [], "cached": [], "plain": []}
    tokens = 0
    for number in range(rounds + 2):
        for name, policy in (("cached", ways.cached), ("plain", ways.plain)):
            started = time.perf_counter()
            proposal = await policy.propose(next(asked), cards)
            seconds = time.perf_counter() - started
            assert proposal.token_ids is not None
            ids = proposal.token_ids["prompt_token_ids"]
            tokens = len(ids)
            started = time.perf_counter()
            await asyncio.to_thread(bare, ids)
            if number >= 2:  # the first rounds open connections and fill caches
                times[name].append(seconds)
                times["bare"].append(time.perf_counter() - started)
    started = time.perf_counter()
    await asyncio.gather(*(ways.cached.propose(next(asked), cards) for _ in range(AT_ONCE)))
    rate = AT_ONCE / (time.perf_counter() - started)
    for policy in (ways.cached, ways.plain):
        if isinstance(policy, RemotePolicy):
            await policy.aclose()
    middle = {name: 1e3 * statistics.median(values) for name, values in times.items()}
    cells = [f"{middle[n]:.0f} (×{middle[n] / middle['bare']:.2f})" for n in ("cached", "plain")]
    return [
        f"{ways.name}, {len(cards)} cards",
        str(tokens),
        f"{middle['bare']:.0f}",
        *cells,
        f"{rate:.1f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--base", type=Path, default=os.environ.get("XROUTER_BASE"))
    parser.add_argument("--cards", type=int, nargs="+", default=[3, 10])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=available())
    parser.add_argument("--no-record", action="store_true", help="leave RESULTS.md alone")
    options = parser.parse_args()
    if options.base is None:
        parser.error("name the base model's folder: --base FOLDER, or XROUTER_BASE")
    model = AutoModelForCausalLM.from_pretrained(str(options.base), dtype=torch.float32)
    model.eval()  # type: ignore[no-untyped-call]

    def bare(ids: list[int]) -> None:
        with torch.inference_mode():
            model(torch.tensor([ids]), logits_to_keep=1, use_cache=False)

    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for count in options.cards:
            folder = Path(scratch) / str(count)
            checkpoint = write_checkpoint_of(options.base, count, folder / "checkpoint")
            cards = [
                ModelCard(name=f"card_{i}", model="m", base_url="http://127.0.0.1:9/v1")
                for i in range(count)
            ]
            for way in options.ways:
                with serving(way, checkpoint, options.base, folder) as ways:
                    rows.append(asyncio.run(measure(ways, cards, bare, options.rounds)))
    columns = ["way", "tokens", "bare ms", "cached ms", "no cache ms", f"{AT_ONCE} at once, 1/s"]
    show("One decision beside one bare forward pass of the same tokens", columns, rows)
    if not options.no_record:
        append(
            "; ".join(
                f"{row[0]}: {row[1]} tokens, bare {row[2]} ms, cached {row[3]}, no cache {row[4]}, "
                f"{AT_ONCE} at once {row[5]}/s"
                for row in rows
            )
        )


def available() -> list[str]:
    """Ways that can run here."""
    found = ["in_process"]
    if importlib.util.find_spec("xllamacpp") and importlib.util.find_spec("gguf"):
        found.append("llama_cpp")
    if "XROUTER_VLLM_PYTHON" in os.environ or importlib.util.find_spec("vllm"):
        found.append("vllm")
    return found


if __name__ == "__main__":
    main()
