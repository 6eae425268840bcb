"""Does the gate keep its word? How often it promotes policies whose worth is known.

    python -m benchmarks.experiments.gate_error            # about two minutes on one core
    python -m benchmarks.experiments.gate_error --policies 50 --json

Worlds are simulated: four kinds of prompt, four models that differ in strength, price and what
they are good at, scores of one prompt correlated across models. A policy recognises the kind of
some of the prompts; kNN of fewer. The true utility of all of them is known exactly.

Null policies, none better than the static mix:
- coin:  two models of exactly equal utility at λ, picked by a coin: on the edge of the hull;
- noise: chases estimates that are pure noise, as an overfitted router does;
- as kNN: better than every static mix, but no better than kNN;
- twin:  several calls in private that come to exactly the best fixed model's scores and costs in
         law; the least favourable null, promoted as often as the level allows.
Better policies: ahead of the strongest comparator (kNN) by the stated margin at λ.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from xrouter_lg.arrays import Floats, Ints
from xrouter_lg.figures.curve import Curve, choose
from xrouter_lg.figures.metrics import Reference
from xrouter_lg.judge.gate.rules import Contender, Rules, judge
from xrouter_lg.outcomes.grid import OutcomeGrid

WEIGHT = 0.3
SETTINGS = (0.0, 0.03, 0.1, WEIGHT, 0.6, 1.0, 3.0, 10.0, 30.0)
STATED_MARGIN = 0.03
STATED_PROMPTS = 1000
C_REF = 0.004
COST = np.array([0.0002, 0.0008, 0.002, 0.004])
# A clear best model at λ = 0.3 (the second) and, per kind, one that beats it there.
SUCCESS = np.array(
    [
        [0.86, 0.80, 0.74, 0.80],
        [0.60, 0.86, 0.78, 0.82],
        [0.62, 0.72, 0.94, 0.84],
        [0.40, 0.58, 0.62, 0.94],
    ]
)
SHARED_LUCK = 0.4
"""Share of prompts on which one draw decides for all models, so that their scores correlate."""


@dataclass(frozen=True)
class MadeTraffic:
    test: OutcomeGrid
    kind: Ints
    """[N] the kind of prompt."""
    success: Floats
    """[kinds, M] true success probabilities."""
    rng: np.random.Generator


@dataclass(frozen=True)
class GateTrials:
    policy: str
    margin: float
    """True utility at λ over the strongest comparator."""
    prompts: int
    policies: int
    promoted: int

    @property
    def rate(self) -> float:
        return self.promoted / self.policies


def world(prompts: int, rng: np.random.Generator, *, success: Floats = SUCCESS) -> MadeTraffic:
    kind = rng.integers(0, len(success), prompts)
    score = _scores(success[kind], rng)
    cost = COST * rng.gamma(4.0, 0.25, (prompts, 1))
    names = tuple(f"m{m}" for m in range(success.shape[1]))
    ids = tuple(map(str, range(prompts)))
    families = tuple(f"kind {k}" for k in kind)
    return MadeTraffic(
        OutcomeGrid(tuple((i,) for i in ids), ids, families, names, score, cost), kind, success, rng
    )


def _scores(p: Floats, rng: np.random.Generator) -> Floats:
    luck = rng.random(p.shape)
    shared = rng.random((len(p), 1)) < SHARED_LUCK
    return (np.where(shared, luck[:, :1], luck) < p).astype(np.float64)


def reference(success: Floats = SUCCESS) -> Reference:
    """As the train half would name them, but without its noise."""
    return Reference(int(success.mean(0).argmax()), int(COST.argmin()), C_REF)


def _curve(name: str, where: MadeTraffic, quality: Floats) -> Curve:
    cost = np.broadcast_to(COST, quality.shape)
    choice = np.stack([choose(quality, cost, w, C_REF) for w in SETTINGS])
    rows = np.arange(len(where.test))
    return Curve(
        name,
        np.array(SETTINGS),
        where.test.score[rows, choice],
        where.test.cost[rows, choice],
        choice,
    )


def informed(where: MadeTraffic, share: float, name: str) -> Curve:
    """Recognises the kind of a share of the prompts, and knows the means for the rest."""
    known = where.rng.random(len(where.test)) < share
    return _curve(
        name, where, np.where(known[:, None], where.success[where.kind], where.success.mean(0))
    )


def utilities(success: Floats = SUCCESS) -> tuple[float, float]:
    """True utility at λ of the best fixed model, and of always knowing the kind."""
    u = success - WEIGHT * COST / C_REF
    return float(u.mean(0).max()), float(u.max(1).mean())


def coin_world(prompts: int, rng: np.random.Generator) -> MadeTraffic:
    """Models 1 and 2 exactly equal in utility at λ on every kind of prompt, the others worse."""
    success = SUCCESS.copy()
    success[:, 2] = success[:, 1] + WEIGHT * (COST[2] - COST[1]) / C_REF
    success[:, 3] = success[:, 1] + 0.05
    return world(prompts, rng, success=success)


def coin(prompts: int, rng: np.random.Generator) -> tuple[MadeTraffic, Curve]:
    where = coin_world(prompts, rng)
    tiny = 1e-6 * rng.standard_normal(where.test.score.shape)
    return where, _curve("coin", where, where.success.mean(0) + tiny)


def noise(prompts: int, rng: np.random.Generator) -> tuple[MadeTraffic, Curve]:
    where = world(prompts, rng)
    guess = where.success.mean(0) + 0.1 * rng.standard_normal(where.test.score.shape)
    return where, _curve("noise", where, guess)


def twin(prompts: int, rng: np.random.Generator) -> tuple[MadeTraffic, Curve]:
    where = world(prompts, rng)
    fixed = _curve("fixed", where, np.broadcast_to(where.success.mean(0), where.test.score.shape))
    assert fixed.choice is not None
    again = _scores(where.success[where.kind], rng)
    rows = np.arange(len(where.test))
    score = again[rows, fixed.choice]
    return where, Curve("twin", fixed.cost_weight, score, fixed.cost)


def better(margin: float) -> Callable[[int, np.random.Generator], tuple[MadeTraffic, Curve]]:
    """Ahead of kNN, which recognises a quarter of the prompts, by `margin` utility."""
    best_fixed, all_known = utilities()
    share = KNN_SHARE + margin / (all_known - best_fixed)
    if share > 1:
        raise ValueError(f"no policy in this world is {margin!r} ahead of kNN")

    def draw(prompts: int, rng: np.random.Generator) -> tuple[MadeTraffic, Curve]:
        where = world(prompts, rng)
        return where, informed(where, share, f"better by {margin:g}")

    return draw


KNN_SHARE = 0.25


def promoted(
    draw: Callable[[int, np.random.Generator], tuple[MadeTraffic, Curve]],
    prompts: int,
    seed: int,
    *,
    knn_share: float,
    draws: int,
) -> bool:
    """Whether one policy, drawn with its world, passes the gate."""
    where, policy = draw(prompts, np.random.default_rng(seed))
    knn = Contender.of(informed(where, knn_share, "kNN"), WEIGHT)
    rules = Rules(WEIGHT, draws=draws, seed=seed)
    return judge(policy, where.test, reference(where.success), rules, knn=knn).promote


def prove(
    *,
    policies: int = 200,
    draws: int = 1000,
    sizes: Sequence[int] = (500, 1000, 2000, 4000),
    margins: Sequence[float] = (0.02, STATED_MARGIN, 0.05),
    first_seed: int = 0,
) -> list[GateTrials]:
    """Promotion rates of null policies (kNN as good as the best fixed model) and better ones."""
    found = []
    for name, null in (("coin", coin), ("noise", noise), ("twin", twin)):
        n = 2 * STATED_PROMPTS
        # A kNN that knows nothing is the best fixed model: it hinders no null policy further.
        passed = sum(
            promoted(null, n, first_seed + s, knn_share=0.0, draws=draws) for s in range(policies)
        )
        found.append(GateTrials(name, 0.0, n, policies, passed))
    # Better than every static mix, yet no better than kNN: margin 0 over the strongest.
    for margin in (0.0, *margins):
        for n in sizes:
            passed = sum(
                promoted(better(margin), n, first_seed + s, knn_share=KNN_SHARE, draws=draws)
                for s in range(policies)
            )
            found.append(GateTrials("better" if margin else "as kNN", margin, n, policies, passed))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="How often the gate promotes what it should.")
    parser.add_argument("--policies", type=int, default=200)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = prove(policies=options.policies, draws=options.draws)
    if options.json:
        print(json.dumps([asdict(o) | {"rate": o.rate} for o in found]))
    else:
        print(f"{'policy':8} {'margin':>7} {'prompts':>8} {'promoted':>9} {'rate':>7}")
        for o in found:
            print(f"{o.policy:8} {o.margin:7.3f} {o.prompts:8,} {o.promoted:9} {o.rate:7.1%}")
    nulls = [o.rate for o in found if o.policy != "better"]
    stated = [o.rate for o in found if (o.margin, o.prompts) == (STATED_MARGIN, STATED_PROMPTS)]
    kept = max(nulls) <= 0.05 and min(stated) >= 0.8
    if not options.json:
        print(
            f"kept: null ≤ 5 %: {max(nulls):.1%}; better by {STATED_MARGIN:g} at "
            f"{STATED_PROMPTS:,} prompts ≥ 80 %: {min(stated):.1%}"
        )
    return 0 if kept else 1


if __name__ == "__main__":
    raise SystemExit(main())
