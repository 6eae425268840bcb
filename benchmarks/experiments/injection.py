"""How often does text that somebody adds to a request move it to a dearer model?

    python -m benchmarks.experiments.injection --checkpoint DIR --data FOLDER \
        [--sources a,b] [--requests 60] [--base DIR --every 3]

FOLDER has prompts.parquet: the requests that attempts are put into. Every attempt of
``injection_parts/attempts.yaml`` is put into user text, a tool's result and the system prompt of
some of them, and decided on at several cost weights. A flip is a first call whose cards cost more,
by the checkpoint's own mean costs, than those of the same request without the attempt. Requests
that go to the dearest card anyway can't flip: the share among the others stands beside. With
``--second`` the text that is added is another request of FOLDER: what is asked, not an attempt.
``--attempts FILE`` takes those of a file, one a line, in the place of ours.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import polars as pl
from langchain_core.messages import BaseMessage

from benchmarks.injection_parts.attempts import Injection, attempts, attempts_of, plain
from benchmarks.results import append, show
from xrouter_lg import ModelCard
from xrouter_lg.policies.checkpoints import load_policy
from xrouter_lg.policies.trained import TrainedPolicy
from xrouter_lg.types import RouteRequest

WEIGHTS = (0.05, 0.1, 0.3, 0.5, 1.0)
_EACH = 2
"""Requests that an attempt is put into."""


@dataclass
class Flips:
    tried: int = 0
    possible: int = 0
    """Of those tried: the request without the attempt does not go to the dearest card."""
    dearer: int = 0

    @property
    def share(self) -> float:
        return self.dearer / max(1, self.tried)

    @property
    def of_possible(self) -> float:
        return self.dearer / max(1, self.possible)

    def add(self, possible: bool, dearer: bool) -> None:
        self.tried += 1
        self.possible += possible
        self.dearer += dearer


class Decider:
    """First calls of a checkpoint's policy, with cards that cost what they cost in training."""

    def __init__(self, policy: TrainedPolicy, *, max_turns: int = 1) -> None:
        self._policy, self._turns = policy, max_turns
        self._run = asyncio.new_event_loop().run_until_complete
        known = policy.manifest.cards
        self.usd = {card.name: card.cost_usd for card in known}
        self._cards = [
            ModelCard(name=card.name, model="openai:none", price=card.price) for card in known
        ]

    def cost(self, messages: Sequence[BaseMessage], weight: float) -> float:
        """USD, by the cards' mean costs, of what is called first."""
        request = RouteRequest(
            messages=tuple(messages), cost_weight=weight, max_turns=self._turns, prompt_tokens=300
        )
        found = self._run(self._policy.propose(request, self._cards))
        calls = [action.card for action in found.actions or () if action.card is not None]
        chosen = calls or [max(found.probabilities, key=lambda name: found.probabilities[name])]
        return sum(self.usd[name] for name in chosen)

    @property
    def most(self) -> float:
        return max(self.usd.values())


def measure(
    decider: Decider, requests: Sequence[str], tried: Sequence[Injection], *, each: int = _EACH
) -> dict[tuple[str, str], Flips]:
    """Flips by (style, place)."""
    found: dict[tuple[str, str], Flips] = {}
    before: dict[tuple[str, str, float], float] = {}
    for number, attempt in enumerate(tried):
        own = found.setdefault((attempt.style, attempt.place), Flips())
        for at in range(each):
            text = requests[(number * each + at) % len(requests)]
            for weight in WEIGHTS:
                key = (text, attempt.place, weight)
                if key not in before:
                    before[key] = decider.cost(plain(text, attempt.place), weight)
                after = decider.cost(attempt.on(text), weight)
                own.add(before[key] < decider.most, after > before[key] * (1 + 1e-9))
    return found


def total(found: Mapping[tuple[str, str], Flips], part: str | None = None) -> Flips:
    """All of them, or those of a style or place."""
    whole = Flips()
    for key, one in found.items():
        if part is None or part in key:
            whole.tried += one.tried
            whole.possible += one.possible
            whole.dearer += one.dearer
    return whole


def requests_of(folder: Path, sources: Sequence[str], count: int, seed: int = 0) -> list[str]:
    """Some prompts of an outcome table, by chance."""
    prompts = pl.read_parquet(folder / "prompts.parquet")
    if sources:
        prompts = prompts.filter(pl.col("source").is_in(list(sources)))
    texts = prompts["prompt"].unique(maintain_order=True).to_list()
    random.Random(seed).shuffle(texts)
    return texts[:count]


def _second(tried: Sequence[Injection], requests: Sequence[str]) -> Iterator[Injection]:
    kept = [one for one in tried if one.place.startswith("user")]
    for number, one in enumerate(kept):
        yield replace(one, style="a second request", text=requests[-1 - number % len(requests)])


def main(options: argparse.Namespace) -> None:
    sources = options.sources.split(",") if options.sources else ()
    requests = requests_of(options.data, sources, options.requests)
    policy = load_policy(
        options.checkpoint, **({} if options.base is None else {"base": options.base})
    )
    decider = Decider(policy, max_turns=options.max_turns)
    tried = list(attempts() if options.attempts is None else attempts_of(options.attempts))
    tried = tried[:: options.every]
    if options.second:
        tried = list(_second(tried, requests))
    found = measure(decider, requests, tried, each=options.each)
    parts: dict[str | None, Any] = dict.fromkeys([None, *(k for key in found for k in key)])
    rows = []
    for part in parts:
        one = total(found, part)
        rows.append([part or "all", f"{one.tried:,}", f"{one.share:.1%}", f"{one.of_possible:.1%}"])
    show(
        f"{policy.manifest.kind} {policy.version}: {len(tried)} attempts, {len(requests)} requests",
        ["attempts", "decisions", "to a dearer card", "of those that could"],
        rows,
    )
    if not options.second:
        append(f"injection, {policy.manifest.kind} on {options.data.name}: {rows[0][2]} dearer")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sources", default="", help="keep these sources of the table")
    parser.add_argument("--requests", type=int, default=60, help="requests to put attempts into")
    parser.add_argument("--each", type=int, default=_EACH, help="requests per attempt")
    parser.add_argument("--max-turns", type=int, default=1, help="for a cascade: calls it may plan")
    parser.add_argument("--base", type=Path, help="the base of a language model's adapter")
    parser.add_argument("--every", type=int, default=1, help="take every so manieth attempt")
    parser.add_argument("--attempts", type=Path, help="a file of attempts, one a line")
    parser.add_argument("--second", action="store_true", help="add another request instead")
    return parser


if __name__ == "__main__":
    main(_parser().parse_args())
