"""A tool agent over two local models: fixed cards, routed per run, routed per step.

    python -m benchmarks.agents [--json] [--save]

Runs LangChain's ``create_agent`` on generated tasks (look-ups, arithmetic over them, dates,
chains) and compares success and cost of each way of routing, with 95 % intervals over the tasks.
The models' answers are recorded (benchmarks/agent_parts/answers.jsonl.gz), so it needs no model and
says the same each time; what was never recorded is refused.

    python -m benchmarks.agents --record

asks the models themselves for what is missing: llama.cpp with Qwen2.5-Coder 0.5B and 1.5B
(``pip install -e '.[llama-cpp]'``). New answers go to ``runs/agent_answers.jsonl`` as they arrive;
an interrupted recording goes on where it stopped. ``--tasks N`` takes the first N only.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.agent_parts.models import CARDS, AgentModels
from benchmarks.agent_parts.recording import AgentRecording
from benchmarks.agent_parts.runs import LARGE, AgentRun, all_runs
from benchmarks.agent_parts.tasks import tasks
from benchmarks.results import append, show
from xrouter_lg.figures.bootstrap import Figure, bootstrap_means, figure

GROWS = Path("runs/agent_answers.jsonl")
DRAWS = 2000


@contextlib.contextmanager
def running() -> Iterator[Mapping[str, str]]:
    """The models' base URLs, while their servers run."""
    from integrations.llama_cpp.catalogue import chat_template_path, get_weights
    from integrations.llama_cpp.server import LlamaCppServer
    from integrations.llama_cpp.weights import fetch

    with contextlib.ExitStack() as stack:
        urls = {}
        for model in CARDS.values():
            template = chat_template_path(get_weights(model))
            server = LlamaCppServer(fetch(model), name=model, n_ctx=3072, chat_template=template)
            urls[model] = stack.enter_context(server).base_url
        yield urls


def compared(runs: Mapping[str, Sequence[AgentRun]]) -> dict[str, dict[str, Any]]:
    """Success and cost of each arm, and how much more often it succeeds than the larger card; the
    same tasks are drawn for all."""
    solved = np.array([[float(run.solved) for run in found] for found in runs.values()])
    cost = np.array([[run.cost_usd for run in found] for found in runs.values()])
    success = bootstrap_means(solved, draws=DRAWS, seed=0)
    usd = bootstrap_means(cost, draws=DRAWS, seed=0)
    base = list(runs).index(LARGE)
    return {
        name: {
            "success": figure(success[:, place]),
            "against_large": figure(success[:, place] - success[:, base]),
            "usd": figure(usd[:, place]),
            "share_of_large": figure(usd[:, place] / usd[:, base]),
            "calls": float(np.mean([len(run.routes) for run in found])),
            "switches": float(np.mean([run.switches for run in found])),
            "raised": float(np.mean([run.raised for run in found])),
            "stalled": float(np.mean([run.stalls > 0 for run in found])),
            "stalled_twice": float(np.mean([run.stalls > 1 for run in found])),
        }
        for place, (name, found) in enumerate(runs.items())
    }


def _text(value: Figure, form: str) -> str:
    low, high = value.low, value.high
    assert value.value is not None and low is not None and high is not None
    return f"{value.value:{form}} [{low:{form}}, {high:{form}}]"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; exit code 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.agents", description=__doc__)
    parser.add_argument("--record", action="store_true", help="ask the models what is missing")
    parser.add_argument("--tasks", type=int, help="only the first so many tasks")
    parser.add_argument("--json", action="store_true", help="figures and runs as JSON")
    parser.add_argument("--save", action="store_true", help="add a line to benchmarks/RESULTS.md")
    options = parser.parse_args(arguments)
    chosen = tasks()[: options.tasks]
    if options.record:
        recording = AgentRecording(grows=GROWS)
        with running() as urls:
            models = AgentModels(recording, urls)
            runs = all_runs(models, chosen)
        recording.write(keys=models.used)
    else:
        runs = all_runs(AgentModels(AgentRecording()), chosen)
    found = compared(runs)
    if options.json:
        shown = {name: [asdict(run) for run in each] for name, each in runs.items()}
        figures = {n: {k: _plain(v) for k, v in row.items()} for n, row in found.items()}
        sys.stdout.write(json.dumps({"figures": figures, "runs": shown}, indent=1) + "\n")
        return 0
    show(
        f"{len(chosen)} tasks of a tool agent, each once",
        ["routing", "solved", "against large", "USD per 1000", "of large's", "calls", "switches"],
        [
            [
                name,
                _text(row["success"], ".0%"),
                _text(row["against_large"], "+.0%"),
                f"{1000 * row['usd'].value:.3f}",
                _text(row["share_of_large"], ".0%"),
                f"{row['calls']:.1f}",
                f"{row['switches']:.2f}",
            ]
            for name, row in found.items()
        ],
    )
    if options.save:
        parts = [
            f"{name}: {row['success'].value:.0%} solved at {1000 * row['usd'].value:.3f} USD/1000"
            for name, row in found.items()
        ]
        append(f"{len(chosen)} agent tasks; " + "; ".join(parts))
    return 0


def _plain(value: Any) -> Any:
    return asdict(value) if isinstance(value, Figure) else value


if __name__ == "__main__":
    raise SystemExit(main())
