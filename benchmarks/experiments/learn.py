"""How long a night of learning takes, from traces that a real graph left.

    python -m benchmarks.experiments.learn --data FOLDER [--traces 10000] [--cards 3]

FOLDER holds outcomes.parquet and prompts.parquet. Their prompts go through a graph whose models
follow scripts and cost what is recorded; a rule by length routes, one request of ten is drawn, and
three answers of ten get a thumb, of which a tenth are wrong. Then ``xrouter learn`` runs in a
process of its own, as a scheduler runs it: seconds, CPU seconds, peak memory, and what it
concluded. Recording is timed too.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from langchain_core.messages import HumanMessage
from rich.console import Console

from benchmarks.quality_rows import TASKS
from benchmarks.results import append, show
from benchmarks.shapes import app_around
from training.stage.progress import Progress, shown
from xrouter_lg import ModelCard, ModelPool, Recorder, XRouterNode
from xrouter_lg.outcomes.grid import OutcomeGrid
from xrouter_lg.testing import ScriptedChatModel

FEEDBACK, COST_WEIGHT = "liked", "0.2"
THUMBS, WRONG, EXPLORED = 0.3, 0.1, 0.1


def pool_of(models: Sequence[str], usd: Sequence[float]) -> ModelPool:
    """Cards that say their name, priced in the proportions of what the models cost."""
    unit = min(usd)
    return ModelPool(
        ModelCard(
            name=f"card_{at}",
            model=ScriptedChatModel(lambda _, said=f"card {at} says so": said),
            price={"input": round(cost / unit, 3), "output": round(4 * cost / unit, 3)},
        )
        for at, cost in enumerate(usd)
    )


def record(store: Path, table: OutcomeGrid, traces: int, progress: Progress) -> None:
    """Each request through a real graph, and a word on some of the answers."""
    rng = random.Random(0)
    mean = table.cost.mean(0)
    pool = pool_of(table.models, mean.tolist())
    names = tuple(card.name for card in pool.cards)
    cheap, best = names[int(mean.argmin())], names[int(table.score.mean(0).argmax())]
    middle = float(np.median([len(prompt) for prompt in table.prompts]))

    def by_length(request: Any, cards: Any) -> str:
        return best if len(request.messages[-1].text) > middle else cheap

    with Recorder(store) as recorder:
        node = XRouterNode(pool, policy=by_length, traces=recorder, exploration=EXPLORED)
        app = app_around(node)
        said = []
        for number in range(traces):
            row = number % len(table)
            answer = app.invoke({"messages": [HumanMessage(table.prompts[row])]})["messages"][-1]
            told = answer.response_metadata["xrouter"]
            right = rng.random() < table.score[row, names.index(told["route"])]
            said.append((told["trace_id"], float(right != (rng.random() < WRONG))))
            if number % 200 == 0:
                recorder.flush(60)
                progress("recording", number, traces, "")
        recorder.flush(60)
        for trace, score in said:
            if rng.random() < THUMBS:
                recorder.store.record_feedback(trace, FEEDBACK, score)


def learn(store: Path, folder: Path) -> tuple[dict[str, Any], float, float]:
    """What the command says, and its seconds and CPU seconds."""
    command = [sys.executable, "-c", "from xrouter_lg.cli import main; main()", "learn"]
    command += ["--store", str(store), "--feedback", FEEDBACK, "--json"]
    command += ["--cost-weight", COST_WEIGHT]
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode not in (0, 3):
        raise RuntimeError(f"xrouter learn ended with {done.returncode}: {done.stderr[-1000:]}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return json.loads(done.stdout), seconds, cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--traces", type=int, default=10_000)
    parser.add_argument("--cards", type=int, default=3)
    parser.add_argument("--no-record", action="store_true", help="leave RESULTS.md alone")
    options = parser.parse_args()
    whole = TASKS["headline"].read(options.data)
    # From the dearest down in equal steps, so that there is something to learn.
    order = np.argsort(whole.cost.mean(0))
    chosen = order[np.linspace(0, len(order) - 1, options.cards).astype(int)]
    table = whole.complete([whole.models[at] for at in chosen])
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory() as scratch, shown(console, every_s=10) as progress:
        store = Path(scratch) / "traces.db"
        started = time.perf_counter()
        record(store, table, options.traces, progress)
        recorded = time.perf_counter() - started
        told, seconds, cpu = learn(store, Path(scratch))
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    concluded = told["done"]
    rows = [
        ["recorded", f"{recorded:.1f}", ""],
        ["learned", f"{seconds:.1f}", f"{cpu:.1f}"],
    ]
    show(
        f"{options.traces:,} traces of {options.cards} cards; {os.cpu_count()} cores; {concluded}; "
        f"peak {peak:.0f} MB",
        ["step", "s", "CPU s"],
        rows,
    )
    if not options.no_record:
        append(
            f"{options.traces:,} traces, {options.cards} cards: recorded in {recorded:.1f} s, "
            f"learned in {seconds:.1f} s ({cpu:.1f} CPU s), peak {peak:.0f} MB; {concluded}"
        )


if __name__ == "__main__":
    main()
