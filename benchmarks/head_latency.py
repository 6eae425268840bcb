"""How long a family head takes to decide, and what it adds to say what to explore by.

    python benchmarks/head_latency.py [--cards 10] [--requests 400]

A head is fitted on 1,600 made prompts of 40 topics. Per request, alternating, so that a busy
machine slows all alike: reading and weighing; the chances of being the best one on top
(``policies/thompson.py``); and a router's whole decision with exploration and without. Medians in
milliseconds; the ratios are what two machines have in common.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from langchain_core.messages import HumanMessage
from safetensors.numpy import save_file

from benchmarks.results import append, show
from xrouter_lg import ModelCard, ModelPool, Router, RouteRequest
from xrouter_lg.arrays import Floats, Ints
from xrouter_lg.checkpoints.family_head import HEAD_FILE, FamilyHead
from xrouter_lg.checkpoints.folder import write_checkpoint
from xrouter_lg.checkpoints.manifest import Manifest
from xrouter_lg.checkpoints.parts import CardStats
from xrouter_lg.fitting.family_head import head_of, head_stats
from xrouter_lg.outcomes.grid import OutcomeGrid
from xrouter_lg.policies.head import HeadPolicy
from xrouter_lg.policies.thompson import best_chances
from xrouter_lg.value.features import Features

T = TypeVar("T")
PROMPTS, TOPICS, WORDS = 1600, 40, 60
PRICE = {"input": 1, "output": 4}


def made_prompts(rng: np.random.Generator) -> tuple[list[str], Ints]:
    """Texts of 30 words, most of them of their topic, and the topic of each."""
    topic_N = rng.integers(TOPICS, size=PROMPTS)
    own_N_W = topic_N[:, None] * WORDS + rng.integers(WORDS, size=(PROMPTS, 20))
    common_N_W = TOPICS * WORDS + rng.integers(200, size=(PROMPTS, 10))
    texts = [" ".join(f"word{w}" for w in row) for row in np.hstack([own_N_W, common_N_W])]
    return texts, topic_N


def made_head(cards: list[str], texts: list[str], topic_N: Ints) -> FamilyHead:
    rng = np.random.default_rng(1)
    level = rng.uniform(0.3, 0.9, (TOPICS, len(cards)))
    luck = rng.random((PROMPTS, len(cards)))
    score: Floats = (luck < level[topic_N]).astype(np.float64)
    keys = tuple((str(n),) for n in range(PROMPTS))
    usd: Floats = np.full(score.shape, 1e-4) * np.linspace(1.0, 10.0, len(cards))
    table = OutcomeGrid(keys, tuple(texts), ("all",) * PROMPTS, tuple(cards), score, usd)
    head = head_of(table, cards)
    assert head is not None
    return head


def write(folder: Path, head: FamilyHead, texts: list[str]) -> Path:
    cards = tuple(
        CardStats(name, "", math.log(1.5), 0.0, 100.0, 1e-4 * (at + 1))
        for at, name in enumerate(head.cards)
    )
    manifest = Manifest(
        kind="head",
        cards=cards,
        c_ref_usd=1e-3,
        best_fixed=head.cards[-1],
        family_head=head_stats(head, Features.of(texts), share=1.0),
    )
    write_checkpoint(folder, manifest, lambda target: save_file(head.arrays, target / HEAD_FILE))
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--cards", type=int, default=10)
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--no-record", action="store_true", help="leave RESULTS.md alone")
    options = parser.parse_args()
    names = [f"card_{at}" for at in range(options.cards)]
    texts, topic_N = made_prompts(np.random.default_rng(0))
    head = made_head(names, texts, topic_N)
    with tempfile.TemporaryDirectory() as scratch:
        policy = HeadPolicy(write(Path(scratch) / "checkpoint", head, texts))
    pool = ModelPool(
        ModelCard(name=n, model=n, base_url="http://127.0.0.1:9/v1", price=PRICE) for n in names
    )
    router = {rate: Router(pool, policy, exploration=rate) for rate in (0.0, 0.05)}
    times: dict[str, list[float]] = {}

    def timed(what: str, act: Callable[[], T]) -> T:
        started = time.perf_counter()
        found = act()
        times.setdefault(what, []).append(time.perf_counter() - started)
        return found

    async def decide(rate: float, request: RouteRequest) -> None:
        started = time.perf_counter()
        await router[rate].decide(request, pool)
        times.setdefault(f"decided at {rate:g}", []).append(time.perf_counter() - started)

    async def measure() -> None:
        for at in range(options.requests):
            text = f"{texts[at % PROMPTS]} and number {at}"
            request = RouteRequest([HumanMessage(text)], cost_weight=0.2, prompt_tokens=50)
            found = timed("weighed", partial(policy.weigh, request, pool.cards, {}))
            timed("chances", partial(best_chances, found))
            for rate in router:
                await decide(rate, request)

    asyncio.run(measure())
    middle = {what: 1e3 * statistics.median(found) for what, found in times.items()}
    added = middle["chances"] / middle["weighed"]
    rows = [[what, f"{ms:.3f}", f"×{ms / middle['weighed']:.2f}"] for what, ms in middle.items()]
    show(
        f"A decision over {len(names)} cards and {len(head.families)} families",
        ["step", "ms", "beside weighing"],
        rows,
    )
    if not options.no_record:
        append(
            f"{len(names)} cards, {len(head.families)} families: weighing "
            f"{middle['weighed']:.3f} ms, the chances ×{added:.2f} of that on top, a decision "
            f"{middle['decided at 0.05']:.3f} ms exploring and {middle['decided at 0']:.3f} not"
        )


if __name__ == "__main__":
    main()
