"""The first two weeks of the demo in memory: which settings learn most from what its app knows?

    python -m benchmarks.experiments.demo_world                      # about a minute on one core
    python -m benchmarks.experiments.demo_world --splits 10 --seeds 3 --caution 0 2 --told one many

The world is that of `python -m integrations.demo`: rules with a tenth drawn at random, thumbs on a
third of the answers, answers bought after the first week and graded by a judge, a second week of
two releases drawn by Thompson sampling; thumbs and verdicts are wrong one time in ten. What is
learned is learned by the package's own value model, and judged on questions that nobody asked. What
is not there: conclusions that hold a checkpoint back, requests unlike all others, silent changes.

Splits are named a0, a1, ...: none is one that docs/demo.md reports on.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import sys
import time
from dataclasses import dataclass, replace

import numpy as np
from langchain_core.messages import HumanMessage

from benchmarks.results import show
from integrations.demo.app import DAY_ONE
from integrations.demo.arms import Truth
from integrations.demo.questions import Question, load
from integrations.demo.replay import RecordedModels
from integrations.demo.story import BY_DOUBT, Settings
from integrations.demo.users import THUMBS, WRONG
from integrations.demo.workers import CARDS
from xrouter_lg import ModelCard
from xrouter_lg.arrays import Bools, Floats, Ints
from xrouter_lg.routing.exploration import Explorer
from xrouter_lg.types import Proposal, RouteRequest
from xrouter_lg.value.buying import Market
from xrouter_lg.value.evidence import JUDGE_ERROR, THUMB_ERROR, Evidence
from xrouter_lg.value.features import Features
from xrouter_lg.value.grouping import Partition, partitions_from_words
from xrouter_lg.value.model import CAUTION, Expected, Reader, ValueModel
from xrouter_lg.value.purchases import Horizon, next_round

_NAMES = tuple(CARDS)
_WEIGHT, _BUDGET_USD = Settings.cost_weight, Settings.budget_usd
_BY_CHANCE = 0.1
"""Of the first week's requests."""
_RELEASES = 2
"""Of the second week."""
_ROUNDS, _DRAWS = 6, 256


@dataclass(frozen=True)
class AskedQuestions:
    """N questions × M cards, and what is true of them."""

    prompts: tuple[str, ...]
    score: Floats
    usd: Floats
    rules: Ints
    """[N] the card that day one's rules take."""

    @classmethod
    def of(cls, models: RecordedModels, questions: list[Question]) -> AskedQuestions:
        truth = Truth.of(models, questions)
        prompts = tuple(question.prompt for question in questions)
        cards = [ModelCard(name=name, model=f"openai:{name}") for name in _NAMES]
        return cls(
            prompts,
            np.stack([truth.score[name] for name in _NAMES], axis=1),
            np.stack([truth.cost[name] for name in _NAMES], axis=1),
            np.array([asyncio.run(_rule(prompt, cards)) for prompt in prompts], dtype=np.int64),
        )

    def utility(self, card_N: Ints, unit_usd: float) -> float:
        rows = np.arange(len(card_N))
        paid = _WEIGHT * self.usd[rows, card_N] / unit_usd
        return float((self.score[rows, card_N] - paid).mean())


async def _rule(prompt: str, cards: list[ModelCard]) -> int:
    found = await DAY_ONE.propose(RouteRequest(messages=[HumanMessage(prompt)]), cards)
    return max(range(len(_NAMES)), key=lambda at: found.probabilities.get(_NAMES[at], 0.0))


class PlayedSplit:
    """One split of the questions."""

    def __init__(self, split: str) -> None:
        history = load(split=split)
        models = RecordedModels(history)
        self.seen = AskedQuestions.of(models, history.seen)
        self.held_out = AskedQuestions.of(models, history.held_out)
        self.features = Features.of(self.seen.prompts)
        self.points = self.features.points(self.held_out.prompts)
        self.unit_usd = float(self.seen.usd[:, -1].mean())
        self._readers: dict[int, tuple[tuple[Partition, Reader], ...]] = {}

    def read(self, scored: int) -> tuple[tuple[Partition, Reader], ...]:
        """The usual partitions where so many requests are scored."""
        if scored not in self._readers:
            found = partitions_from_words(self.features, scored)
            plane = self.features.plane_N_P
            self._readers[scored] = tuple((own, Reader.fit(plane, own)) for own in found)
        return self._readers[scored]

    def gain(self, model: ValueModel) -> float:
        """Utility over the rules on the questions that nobody asked."""
        taken = model.expect(model.shares(self.points)).utility(_WEIGHT, self.unit_usd).argmax(1)
        mine = self.held_out.utility(taken.astype(np.int64), self.unit_usd)
        return mine - self.held_out.utility(self.held_out.rules, self.unit_usd)

    def full_gain(self) -> float:
        """Of a model that was told every answer."""
        n, cards = self.seen.score.shape
        row, card = np.divmod(np.arange(n * cards), cards)
        told = Evidence(
            row, card, self.seen.score.ravel(), np.zeros(n * cards), np.ones(n * cards),
            np.full(n * cards, np.nan), n, cards,
        )  # fmt: skip
        own = self.read(n)
        model = ValueModel(tuple(p for p, _ in own), tuple(r for _, r in own), (), ())
        return self.gain(model.learned(told, self.seen.usd))


class WeeksLog:
    """What the app knows: R releases in which every question came once, and bought answers."""

    def __init__(self, world: PlayedSplit, seed: int) -> None:
        self.world = world
        self.rng = np.random.default_rng([seed, 1])
        self.card: list[Ints] = []
        self.chance: list[Floats] = []
        self.thumb: list[Floats] = []
        self.verdict = self._told(world.seen.score)
        self.bought: Bools = np.zeros(self.verdict.shape, dtype=np.bool_)

    def _told(self, truth: Floats) -> Floats:
        """What somebody says who is wrong now and then."""
        right = truth > 0.5
        said: Floats = (right ^ (self.rng.random(truth.shape) < WRONG)).astype(np.float64)
        return said

    def add(self, card_N: Ints, chance_N: Floats) -> None:
        rows = np.arange(len(card_N))
        thumb = self._told(self.world.seen.score[rows, card_N])
        thumb[self.rng.random(len(card_N)) >= THUMBS] = np.nan
        self.card.append(card_N)
        self.chance.append(chance_N)
        self.thumb.append(thumb)

    @property
    def called(self) -> Bools:
        """[R · N, M]"""
        return np.concatenate([np.eye(len(_NAMES), dtype=np.bool_)[card] for card in self.card])

    def evidence(self) -> Evidence:
        """A row per request; a bought answer fills all of its question's, and is worth one."""
        thumb = np.concatenate(self.thumb)
        at = np.flatnonzero(np.isfinite(thumb))
        card = np.concatenate(self.card)[at]
        releases, n = len(self.card), len(self.bought)
        by_users = np.zeros((releases * n, len(_NAMES)), dtype=np.bool_)
        by_users[at, card] = True
        free = (np.tile(self.bought, (releases, 1)) & ~by_users).reshape(releases, n, -1)
        release, question, bought = np.nonzero(free)
        shared = free.sum(0)[question, bought]
        judged = len(bought)
        return Evidence(
            np.concatenate([at, release * n + question]),
            np.concatenate([card, bought]),
            np.concatenate([thumb[at], self.verdict[question, bought]]),
            np.concatenate([np.full(len(at), THUMB_ERROR), np.full(judged, JUDGE_ERROR)]),
            np.concatenate([np.ones(len(at)), 1.0 / shared]),
            np.concatenate([np.concatenate(self.chance)[at], np.full(judged, np.nan)]),
            releases * n,
            len(_NAMES),
        )

    def cost(self) -> Floats:
        """[R · N, M] USD; NaN where nothing was paid."""
        releases = len(self.card)
        paid = self.called | np.tile(self.bought, (releases, 1))
        found: Floats = np.where(paid, np.tile(self.world.seen.usd, (releases, 1)), np.nan)
        return found

    def learned(self, caution: float) -> ValueModel:
        evidence = self.evidence()
        own = self.world.read(len(np.unique(evidence.prompt_R)))
        rows = [replace(p, family_N=np.tile(p.family_N, len(self.card))) for p, _ in own]
        empty = ValueModel(tuple(rows), tuple(r for _, r in own), (), (), caution)
        return empty.learned(evidence, self.cost())

    def buy(self, budget_usd: float, weight: float | None, seed: int) -> None:
        """In rounds, as `xrouter learn` does; after one release."""
        usd = self.world.seen.usd
        left = budget_usd
        for number in range(_ROUNDS):
            there = self.called | self.bought
            price = np.where(there, np.inf, np.broadcast_to(usd.mean(0), usd.shape))
            basket = next_round(
                self.world.features,
                self.evidence(),
                self.cost(),
                Market(price, self.bought),
                Horizon(10_000, weight),
                budget_usd=left / (_ROUNDS - number),
                seed=seed + number,
            )
            for one in basket.purchases:
                if usd[one.row, one.card] <= left:
                    left -= float(usd[one.row, one.card])
                    self.bought[one.row, one.card] = True


def _chances(
    model: ValueModel, shares: tuple[Floats, ...], found: Expected, log: WeeksLog
) -> Floats:
    """[N, M] how likely each card is the best, as :mod:`xrouter_lg.policies.thompson` has it."""
    jitter = 1e-9 * np.eye(len(_NAMES))
    roots = [
        np.einsum("nf,fij->nij", share, np.linalg.cholesky(own.covariance_F_M_M + jitter))
        for share, own in zip(shares, model.posteriors, strict=True)
    ]
    root = np.mean(roots, axis=0)
    utility = found.utility(_WEIGHT, log.world.unit_usd, counted=False)
    z = log.rng.standard_normal((len(utility), _DRAWS, len(_NAMES)))
    best = (utility[:, None, :] + np.einsum("nij,ndj->ndi", root, z)).argmax(2)
    return np.stack([(best == card).mean(1) for card in range(len(_NAMES))], axis=1)


def _release(log: WeeksLog, model: ValueModel, seed: int) -> None:
    """Every question once, drawn as the demo's app draws in its second week."""
    seen = log.world.seen
    shares = model.shares(log.world.features.plane_N_P)
    found = model.expect(shares)
    chances = _chances(model, shares, found, log)
    favourite = found.utility(_WEIGHT, log.world.unit_usd).argmax(1)
    explorer = Explorer(BY_DOUBT, random.Random(seed))
    card, chance = favourite.astype(np.int64), np.ones(len(favourite))
    for row in log.rng.permutation(len(favourite)).tolist():
        first = _NAMES[favourite[row]]
        likely = dict(zip(_NAMES, chances[row].tolist(), strict=True))
        expected = dict(zip(_NAMES, found.usd_N_M[row].tolist(), strict=True))
        order = [first, *(name for name in _NAMES if name != first)]
        drawn = explorer.draw(order, Proposal({first: 1.0}, explore=likely), expected)
        card[row], chance[row] = _NAMES.index(drawn.card), drawn.propensity
        explorer.settle(f"{seen.usd[row, card[row]]:.12f}")
    log.add(card, chance)


def nights(
    world: PlayedSplit, seed: int, *, caution: float, weight: float | None
) -> tuple[float, float]:
    """Utility over the rules after the first night and after the second."""
    log, rules = WeeksLog(world, seed), world.seen.rules
    card = np.where(
        log.rng.random(len(rules)) < _BY_CHANCE,
        log.rng.integers(0, len(_NAMES), len(rules)),
        rules,
    )
    even = _BY_CHANCE / len(_NAMES)
    log.add(card, np.where(card == rules, 1.0 - _BY_CHANCE + even, even))
    log.buy(_BUDGET_USD, weight, seed)
    first = log.learned(caution)
    for release in range(_RELEASES):
        _release(log, first, seed * _RELEASES + release)
    return world.gain(first), world.gain(log.learned(caution))


def main() -> None:
    """Print a table of all combinations."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=1, help="of users, on each split")
    parser.add_argument("--caution", type=float, nargs="+", default=[0.0, CAUTION])
    parser.add_argument(
        "--told", choices=("one", "many"), nargs="+", default=["one"],
        help="whether the buyer is told the cost weight in use",
    )  # fmt: skip
    options = parser.parse_args()
    began = time.monotonic()
    worlds = [PlayedSplit(f"a{number}") for number in range(options.splits)]
    full = float(np.mean([world.full_gain() for world in worlds]))
    rows = []
    for told, caution in itertools.product(options.told, options.caution):
        weight = _WEIGHT if told == "one" else None
        gains = np.array(
            [
                nights(world, seed, caution=caution, weight=weight)
                for world in worlds
                for seed in range(options.seeds)
            ]
        )
        error = gains.std(0) / np.sqrt(len(gains))
        rows.append(
            [told, f"{caution:g}"]
            + [f"{mean:+.3f} ± {e:.3f}" for mean, e in zip(gains.mean(0), error, strict=True)]
        )
        print(*rows[-1], f"{time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    show(
        f"utility over the rules, {options.splits} splits × {options.seeds}; told every answer "
        f"{full:+.3f}",
        ["cost weights bought for", "caution", "night 1", "night 2"],
        rows,
    )


if __name__ == "__main__":
    main()
