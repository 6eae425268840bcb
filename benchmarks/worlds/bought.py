"""How much of what all answers teach do the right ones teach? `quality.py --world bought`.

Half of the table's prompts is learned from, the other half judges. Nothing is known at first, or a
one-sided log; then answers are bought in rounds, by `xrouter_lg.value.purchases` as
`xrouter backfill` does, or by chance: one by one, or prompts put to every card. A family head is
fitted on what came of it. The share is its gain in AIQ over the zero router, over the gain of a
head that was told every answer of the half.

The log is that of rules: the longer half of the requests went to the best fixed card, the shorter
to the cheapest, and one request in ten to a card by chance. Of its answers 30 % have a thumb, and
one in ten of those is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.quality_rows import FittedHead
from xrouter_lg.arrays import Bools, Floats
from xrouter_lg.checkpoints.family_head import HEAD_FILE
from xrouter_lg.checkpoints.parts import HeadStats
from xrouter_lg.figures.curve import Predictions, predicted_curve
from xrouter_lg.figures.metrics import Reference, resample
from xrouter_lg.files import whole
from xrouter_lg.fitting.family_head import export_head
from xrouter_lg.outcomes.grid import OutcomeGrid
from xrouter_lg.outcomes.split import random_split
from xrouter_lg.value.buying import Market
from xrouter_lg.value.evidence import Evidence
from xrouter_lg.value.features import Features
from xrouter_lg.value.grouping import partitions_from_words
from xrouter_lg.value.model import ValueModel
from xrouter_lg.value.purchases import Horizon, next_round

BUDGETS = (0.02, 0.05, 0.1, 0.2, 0.5)
"""Shares of what all answers of the half cost."""
LOGS = ("nothing", "rules")
WAYS = ("value", "random answers", "random prompts")
_THUMBS, _WRONG, _EXPLORED = 0.3, 0.1, 0.1
_ROUNDS = 6
_ENDLESS = Horizon(1e12)
"""Requests enough that every answer is worth its price: the budget alone ends the buying."""
_DRAWS = 2_000


@dataclass(frozen=True)
class Half:
    """One split: what is learned from, and what judges."""

    train: OutcomeGrid
    test: OutcomeGrid
    features: Features
    known_range: tuple[float, float]

    @classmethod
    def of(cls, table: OutcomeGrid, seed: int) -> Half:
        train, test = random_split(table, seed=seed)
        features = Features.of(train.prompts)
        return cls(train, test, features, features.known_range())

    @property
    def all_usd(self) -> float:
        return float(self.train.cost.sum())

    def gain(self, evidence: Evidence, cost_N_M: Floats) -> float:
        """In AIQ over the zero router, of a head that was told this."""
        partitions = partitions_from_words(self.features, len(np.unique(evidence.prompt_R)))
        model = ValueModel.fit(self.features.plane_N_P, partitions, evidence, cost_N_M)
        head = export_head(self.features, model, cost_N_M, self.train.models)
        stats = HeadStats(HEAD_FILE, head.families, head.cards, 1.0, *self.known_range)
        _, counted, usd = model.overall()
        usd = np.where(np.isfinite(usd), usd, np.nanmax(usd))
        prior = Predictions(counted[None], usd[None])
        found = FittedHead(head, stats, self.train.models, prior).predict(self.test.prompts)
        reference = Reference.of(self.train)
        curve = predicted_curve("bought", found, self.test, c_ref=reference.c_ref)
        judged = resample(curve, self.test, reference, draws=1)
        return float((judged.aiq - judged.zero_aiq)[0])

    def full_gain(self) -> float:
        return self.gain(Evidence.of(self.train), self.train.cost)


@dataclass
class Buyer:
    """What is known of a half, and what it has cost."""

    half: Half
    score: Floats
    error: Floats
    cost: Floats
    propensity: Floats
    bought: Bools
    spent: float = 0.0
    rng: np.random.Generator = field(default_factory=np.random.default_rng)

    @classmethod
    def after(cls, log: str, half: Half, seed: int) -> Buyer:
        """One who has this log and has bought nothing yet."""
        shape = half.train.score.shape
        unknown = np.full(shape, np.nan)
        rng = np.random.default_rng([seed, 1])
        new = cls(
            half,
            unknown.copy(),
            np.zeros(shape),
            unknown.copy(),
            unknown.copy(),
            np.zeros(shape, dtype=np.bool_),
            rng=rng,
        )
        if log == "rules":
            new._logged(np.random.default_rng([seed, 2]))
        return new

    def _logged(self, rng: np.random.Generator) -> None:
        train, reference = self.half.train, Reference.of(self.half.train)
        n, cards = train.score.shape
        length = np.array([len(prompt) for prompt in train.prompts])
        rule = np.where(length > np.median(length), reference.best_fixed, reference.cheapest)
        card = np.where(rng.random(n) < _EXPLORED, rng.integers(0, cards, n), rule)
        chance = _EXPLORED / cards + (1.0 - _EXPLORED) * (card == rule)
        rows = np.arange(n)
        self.cost[rows, card] = train.cost[rows, card]
        up = (rng.random(n) < train.score[rows, card]) != (rng.random(n) < _WRONG)
        at = np.flatnonzero(rng.random(n) < _THUMBS)
        self.score[at, card[at]] = up[at]
        self.error[at, card[at]] = _WRONG
        self.propensity[at, card[at]] = chance[at]

    def evidence(self) -> Evidence:
        row, card = np.nonzero(np.isfinite(self.score))
        return Evidence(
            row,
            card,
            self.score[row, card],
            self.error[row, card],
            np.ones(len(row)),
            self.propensity[row, card],
            *self.score.shape,
        )

    def take(self, row: int, card: int, most_usd: float) -> bool:
        """Buy an answer, unless it is too dear; whether that was so."""
        train = self.half.train
        usd = float(train.cost[row, card])
        if self.spent + usd > most_usd:
            return False
        self.bought[row, card] = True
        self.score[row, card], self.cost[row, card] = train.score[row, card], usd
        self.error[row, card], self.propensity[row, card] = 0.0, np.nan
        self.spent += usd
        return True

    def gain(self) -> float:
        return self.half.gain(self.evidence(), self.cost)


def by_value(buyer: Buyer, most_usd: float) -> None:
    """In rounds, each learning from those before."""
    for number in range(_ROUNDS):
        left = (most_usd - buyer.spent) / (_ROUNDS - number)
        basket = next_round(
            buyer.half.features,
            buyer.evidence(),
            buyer.cost,
            Market(_expected_usd(buyer), buyer.bought),
            _ENDLESS,
            budget_usd=left,
            seed=int(buyer.rng.integers(1 << 30)),
        )
        for one in basket.purchases:
            buyer.take(one.row, one.card, most_usd)


def by_answers(buyer: Buyer, most_usd: float) -> None:
    """Answers by chance, until the first that is too dear."""
    cards = buyer.score.shape[1]
    for place in buyer.rng.permutation(buyer.score.size).tolist():
        row, card = divmod(place, cards)
        if not buyer.take(row, card, most_usd):
            return


def by_prompts(buyer: Buyer, most_usd: float) -> None:
    """Prompts by chance, each put to every card."""
    prompts, cards = buyer.score.shape
    for row in buyer.rng.permutation(prompts).tolist():
        for card in range(cards):
            if not buyer.take(row, card, most_usd):
                return


_BUY: Mapping[str, Callable[[Buyer, float], None]] = dict(
    zip(WAYS, (by_value, by_answers, by_prompts), strict=True)
)


def _expected_usd(buyer: Buyer) -> Floats:
    """[N, M] what asking is expected to cost: a card's usual price, as a price list and the length
    of its answers tell it. What has been bought is for sale no more."""
    usual = np.broadcast_to(buyer.half.train.cost.mean(0), buyer.score.shape)
    price: Floats = np.where(buyer.bought, np.inf, usual)
    return price


@dataclass(frozen=True)
class Share:
    """Of the full-information gain, by what was spent."""

    log: str
    way: str
    budget: float
    gain: float
    """In AIQ, mean over the splits."""
    share: float
    """Ratio of the mean gains."""
    low: float
    high: float
    """95 %, splits resampled."""


def shares(
    table: OutcomeGrid,
    *,
    splits: int,
    logs: Sequence[str] = LOGS,
    ways: Sequence[str] = WAYS,
    budgets: Sequence[float] = BUDGETS,
    say: Callable[[str], None],
) -> tuple[float, list[Share]]:
    """The mean gain where every answer is known, and the curves."""
    found: dict[tuple[str, str, float], list[float]] = {}
    full: list[float] = []
    for seed in range(splits):
        half = Half.of(table, seed)
        full.append(half.full_gain())
        for log in logs:
            for way in ways:
                say(f"split {seed + 1} of {splits}: {way}, known at first: {log}")
                for budget in budgets:
                    buyer = Buyer.after(log, half, seed)
                    _BUY[way](buyer, budget * half.all_usd)
                    found.setdefault((log, way, budget), []).append(buyer.gain())
    draw = np.random.default_rng(0).integers(0, splits, (_DRAWS, splits))
    whole_gain = np.array(full)
    rows = []
    for (log, way, budget), gains in found.items():
        gain = np.array(gains)
        ratio = gain[draw].mean(1) / whole_gain[draw].mean(1)
        low, high = np.quantile(ratio, (0.025, 0.975))
        share = float(gain.mean() / whole_gain.mean())
        rows.append(Share(log, way, budget, float(gain.mean()), share, float(low), float(high)))
    return float(whole_gain.mean()), rows


def draw_curves(path: Path, rows: Sequence[Share]) -> bool:
    """A PNG of the curves; False where matplotlib is not installed."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure as Picture
    except ImportError:
        return False
    logs = list(dict.fromkeys(row.log for row in rows))
    picture = Picture(figsize=(4.6 * len(logs), 4.2), dpi=120, layout="constrained")
    FigureCanvasAgg(picture)
    for axes, log in zip(picture.subplots(1, len(logs), squeeze=False)[0], logs, strict=True):
        for number, way in enumerate(dict.fromkeys(row.way for row in rows)):
            own = [row for row in rows if (row.log, row.way) == (log, way)]
            at = [row.budget for row in own]
            axes.plot(at, [row.share for row in own], "o-", color=f"C{number}", label=way)
            low, high = [row.low for row in own], [row.high for row in own]
            axes.fill_between(at, low, high, color=f"C{number}", alpha=0.15, linewidth=0)
        axes.axhline(0.8, color="grey", linewidth=0.8, linestyle=":")
        axes.set(xscale="log", xlabel="bought, share of what all answers cost", ylim=(-0.6, 1.15))
        axes.set_xticks(BUDGETS, [f"{budget:.0%}" for budget in BUDGETS])
        axes.set_title(f"known at first: {log}", fontsize="medium")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small", loc="lower right")
        axes.set_ylabel("share of the full-information gain")
    with whole(path) as temporary:
        picture.savefig(temporary, format="png")
    return True
