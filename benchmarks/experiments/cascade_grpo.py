"""Does GRPO improve a policy of several calls? A study on recorded answers.

    python -m benchmarks.experiments.cascade_grpo --outcomes FOLDER --splits 10

A policy is a softmax over what each choice is worth to its warm start, plus linear corrections
that GRPO learns:

    π(a | s) = softmax((u_start(a, s) + w · φ(a, s)) / T).

φ knows the kind of task (predicted), the cards called, how many answers agree and the cost weight.
Prompts, cost weights and groups are drawn as :mod:`training.grpo.trainer` draws them; rewards are
:class:`training.data.reward.Reward`; an advantage is a reward less its group's mean, unscaled
(``scale_rewards="none"``), and each decision of an episode gets it. On policy the clipped loss of
TRL has just this gradient.

Two warm starts: ``planned``, the backward induction that serves
(:mod:`xrouter_lg.fitting.cascade_choice`), and ``kinds``, what single calls are known to score on
each kind, blind to agreement.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from training.config.reward import RewardKind
from training.data.reward import Reward
from xrouter_lg.arrays import Floats, Ints
from xrouter_lg.checkpoints.cascade_model import AnswerModel
from xrouter_lg.figures.curve import DIAL, Curve
from xrouter_lg.fitting.cascade import Recorded, fit_answers
from xrouter_lg.fitting.cascade_choice import Split, SplitFigures, read_recorded, summary
from xrouter_lg.outcomes.grid import OutcomeGrid
from xrouter_lg.policies.cascade.planner import Values
from xrouter_lg.policies.cascade.policy import Plans

Start = Literal["planned", "kinds"]

TURNS = 3


@dataclass(frozen=True, kw_only=True)
class PlanGrpo:
    """How the study trains."""

    steps: int = 50
    prompts_per_step: int = 32
    generations: int = 16
    temperature: float = 0.03
    learning_rate: float = 1e-3
    reward: RewardKind = "linear"
    validate_every: int = 10
    """Steps between two validations on held-back prompts of the train half; the best state is
    kept, the warm start among them."""
    held_back: float = 0.3
    seed: int = 0


@dataclass(frozen=True)
class Choices:
    """What may be done in a state: K choices."""

    utility_K: Floats
    """By the warm start."""
    feature_K_D: Floats


@dataclass(frozen=True)
class PlayedPlan:
    decisions: tuple[tuple[Choices, int], ...]
    called: tuple[int, ...]
    taken: int


class SequencePolicy:
    """A warm start with learned corrections ``weight_D``."""

    def __init__(self, model: AnswerModel, start: Start) -> None:
        self.model, self.start = model, start
        self.plans, self.cards = Plans(model), range(len(model.cards))
        self.planner = self.plans.planner(self.cards, TURNS)
        self.kinds = len(model.head.families)
        # First sets: a card, and how many; later: a card, accepting, and accepting when alike.
        self._local = 2 * len(model.cards) + 4
        self.weight_D = np.zeros(2 * self.kinds * self._local)
        self._alone_F_M = np.einsum("fqm,fq->fm", model.right_F_Q_M, model.share_F_Q)
        self._first: dict[tuple[tuple[float, ...], float], Choices] = {}

    def play(
        self,
        shares: tuple[float, ...],
        cost_weight: float,
        group_M: Ints,
        length_M: Ints,
        temperature: float,
        rng: np.random.Generator | None,
    ) -> PlayedPlan:
        """One episode on recorded answers; without ``rng`` the best choice is always taken."""
        values = self.plans.values(self.cards, shares, cost_weight, turns=TURNS)
        first = self._first_choices(shares, cost_weight, values)
        at = self._pick(first, temperature, rng)
        decisions = [(first, at)]
        called = [self.cards[m] for m in self.planner.first_sets[at]]
        length_bin = self.model.length_bin(shares, called, [int(length_M[m]) for m in called])
        state, seats = self.planner.state(called, group_M[called].tolist())
        open_to = [m for m in self.cards if m not in called]
        second = self._later(shares, cost_weight, values, called, seats, state, length_bin, open_to)
        at = self._pick(second, temperature, rng)
        decisions.append((second, at))
        if at > 0:
            called.append(open_to[at - 1])
            state, seats = self.planner.state(called, group_M[called].tolist())
        return PlayedPlan(
            tuple(decisions),
            tuple(called),
            self._taken(values, shares, called, seats, state, length_bin),
        )

    def _pick(self, choices: Choices, temperature: float, rng: np.random.Generator | None) -> int:
        u = choices.utility_K + choices.feature_K_D @ self.weight_D
        if rng is None:
            return int(u.argmax())
        return int((u / temperature + rng.gumbel(size=len(u))).argmax())

    def probabilities(self, choices: Choices, temperature: float) -> Floats:
        u = (choices.utility_K + choices.feature_K_D @ self.weight_D) / temperature
        mass = np.exp(u - u.max())
        found: Floats = mass / mass.sum()
        return found

    def _features(self, shares: Sequence[float], weight: float, local_K_L: Floats) -> Floats:
        kind = np.concatenate([shares, np.array(shares) * np.clip(np.log10(weight + 0.01), -2, 1)])
        spread = kind[None, :, None] * local_K_L[:, None, :]
        return spread.reshape(len(local_K_L), -1)

    def _first_choices(
        self, shares: tuple[float, ...], cost_weight: float, values: Values
    ) -> Choices:
        key = (shares, cost_weight)
        if key not in self._first:
            sets, cards = self.planner.first_sets, len(self.model.cards)
            local = np.zeros((len(sets), self._local))
            for k, chosen in enumerate(sets):
                local[k, list(chosen)] = 1.0
                local[k, cards] = float(len(chosen) - 1)
            if self.start == "planned":
                utility = values.first_utility
            else:
                alone, usd = self._alone(shares, cost_weight)
                utility = np.array([alone[list(s)].max() - usd[list(s)].sum() for s in sets])
            self._first[key] = Choices(utility, self._features(shares, cost_weight, local))
        return self._first[key]

    def _alone(self, shares: Sequence[float], cost_weight: float) -> tuple[Floats, Floats]:
        share = np.array(shares)
        usd = share @ self.model.usd_F_M * cost_weight / self.model.c_ref_usd
        return share @ self._alone_F_M, usd

    def _later(
        self,
        shares: tuple[float, ...],
        cost_weight: float,
        values: Values,
        called: Sequence[int],
        seats: Sequence[int],
        state: int,
        length_bin: int,
        open_to: Sequence[int],
    ) -> Choices:
        """Accepting first, then a call of each further card."""
        cards = len(self.model.cards)
        alike = max(seats.count(seat) for seat in seats) > 1
        local = np.zeros((1 + len(open_to), self._local))
        local[0, -3:] = 1.0, float(alike), float(len(called) > 1)
        for k, card in enumerate(open_to, 1):
            local[k, cards + 1 + card] = 1.0
        if self.start == "planned":
            mass = max(float(values.seen_T_B[state, length_bin]), 1e-12)
            low, high = np.searchsorted(self.planner.extension_state, (state, state + 1))
            calls = values.call_R_E_B[0][low:high, length_bin]
            utility = np.concatenate([[values.accept_T_B[state, length_bin]], calls]) / mass
        else:
            alone, usd = self._alone(shares, cost_weight)
            best = alone[list(called)].max()
            utility = np.array([best, *(max(best, alone[m]) - usd[m] for m in open_to)])
        return Choices(utility, self._features(shares, cost_weight, local))

    def _taken(
        self,
        values: Values,
        shares: Sequence[float],
        called: Sequence[int],
        seats: Sequence[int],
        state: int,
        length_bin: int,
    ) -> int:
        if self.start == "planned":
            group = int(values.group_T_B[state, length_bin])
            alike = [m for m, seat in zip(called, seats, strict=True) if seat == group]
            return max(alike, key=lambda m: values.single[m])
        # The majority, and among equals the card that is right most often alone.
        alone = np.array(shares) @ self._alone_F_M
        pairs = zip(called, seats, strict=True)
        return max(pairs, key=lambda pair: (seats.count(pair[1]), alone[pair[0]]))[0]


def advantages(reward_G_K: Floats) -> Floats:
    """Rewards less their group's mean, as TRL has them with ``scale_rewards="none"``."""
    found: Floats = reward_G_K - reward_G_K.mean(1, keepdims=True)
    return found


def improve(
    policy: SequencePolicy, train: OutcomeGrid, recorded: Recorded, settings: PlanGrpo
) -> list[float]:
    """GRPO in place; mean validation reward at the start and at each validation."""
    rng = np.random.default_rng(settings.seed)
    reward = Reward(policy.model.c_ref_usd, settings.reward)
    shares = [policy.plans.shares(prompt) for prompt in train.prompts]
    weights = np.array([w for w in DIAL if w <= 10.0])
    order = rng.permutation(len(train))
    held = order[: round(settings.held_back * len(train))]
    learn = order[len(held) :]

    def validate() -> float:
        found = []
        for weight in weights[::3]:
            score, cost = _greedy(policy, train, recorded, shares, held, float(weight))
            found.append(reward.many(score, cost, float(weight)).mean())
        return float(np.mean(found))

    validated = [validate()]
    best = policy.weight_D.copy()
    first, second = np.zeros_like(policy.weight_D), np.zeros_like(policy.weight_D)
    for step in range(1, settings.steps + 1):
        gradient, decisions = np.zeros_like(policy.weight_D), 0
        for _ in range(settings.prompts_per_step):
            n, weight = int(rng.choice(learn)), float(rng.choice(weights))
            group = [
                policy.play(
                    shares[n],
                    weight,
                    recorded.group_N_M[n],
                    recorded.length_N_M[n],
                    settings.temperature,
                    rng,
                )
                for _ in range(settings.generations)
            ]
            score = np.array([train.score[n, e.taken] for e in group])
            cost = np.array([train.cost[n, list(e.called)].sum() for e in group])
            reward_K = reward.many(score, cost, weight)
            for episode, advantage in zip(group, advantages(reward_K[None])[0], strict=True):
                decisions += len(episode.decisions)
                for choices, at in episode.decisions:
                    mean = policy.probabilities(choices, settings.temperature) @ choices.feature_K_D
                    gradient += advantage * (choices.feature_K_D[at] - mean)
        gradient /= decisions * settings.temperature
        first = 0.9 * first + 0.1 * gradient
        second = 0.99 * second + 0.01 * gradient**2
        step_size = settings.learning_rate * (1 - (step - 1) / settings.steps)
        policy.weight_D += (
            step_size * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.99**step)) + 1e-8)
        )
        if step % settings.validate_every == 0:
            validated.append(validate())
            if validated[-1] > max(validated[:-1]):
                best = policy.weight_D.copy()
    policy.weight_D = best
    return validated


def _greedy(
    policy: SequencePolicy,
    table: OutcomeGrid,
    recorded: Recorded,
    shares: Sequence[tuple[float, ...]],
    rows: Ints,
    weight: float,
) -> tuple[Floats, Floats]:
    """Score and USD of these prompts when the best choice is always taken."""
    score, cost = np.zeros(len(rows)), np.zeros(len(rows))
    for at, n in enumerate(rows):
        episode = policy.play(
            shares[n], weight, recorded.group_N_M[n], recorded.length_N_M[n], 1.0, None
        )
        score[at] = table.score[n, episode.taken]
        cost[at] = table.cost[n, list(episode.called)].sum()
    return score, cost


def policy_curve(policy: SequencePolicy, test: OutcomeGrid, recorded: Recorded) -> Curve:
    """The policy at every cost weight of the dial, its best choice always taken."""
    shares = [policy.plans.shares(prompt) for prompt in test.prompts]
    rows = np.arange(len(test))
    points = [_greedy(policy, test, recorded, shares, rows, weight) for weight in DIAL]
    score, cost = (np.array(side) for side in zip(*points, strict=True))
    return Curve(policy.start, np.array(DIAL), score, cost)


def main(argv: Sequence[str] | None = None) -> int:
    """Prints every split, then means of both warm starts before and after GRPO."""
    parser = argparse.ArgumentParser(description="Does GRPO improve a policy of several calls?")
    parser.add_argument("--outcomes", type=Path, required=True, help="folder of an outcome table")
    parser.add_argument("--splits", type=int, default=10)
    parser.add_argument("--steps", type=int, default=PlanGrpo.steps)
    parser.add_argument("--reward", choices=("linear", "success_gated"), default="linear")
    options = parser.parse_args(argv)
    settings = PlanGrpo(steps=options.steps, reward=options.reward)
    try:
        table, recorded = read_recorded(options.outcomes)
    except (ValueError, OSError) as error:
        print(f"error: {error}")
        return 2
    rows: dict[str, list[SplitFigures]] = {}
    starts: tuple[Start, ...] = ("planned", "kinds")
    for seed in range(options.splits):
        split = Split.of(table, recorded, seed)
        model = fit_answers(split.train, split.learned_from)
        for start in starts:
            policy = SequencePolicy(model, start)
            before = policy_curve(policy, split.test, split.judged_on)
            validated = improve(policy, split.train, split.learned_from, settings)
            after = policy_curve(policy, split.test, split.judged_on)
            for name, curve in ((f"{start}, warm start", before), (f"{start}, GRPO", after)):
                rows.setdefault(name, []).append(split.judge(curve))
            was, now = (rows[f"{start}, {name}"][-1].over_mix for name in ("warm start", "GRPO"))
            print(
                f"split {seed}, {start}: {was:+.4f} before, {now:+.4f} after; reward on held-back "
                f"prompts of the train half {validated[0]:.4f} before, {max(validated):.4f} best",
                flush=True,
            )
    for name, judged in rows.items():
        print(summary(name, judged))
    for start in starts:
        added = np.array(
            [
                b.over_mix - a.over_mix
                for a, b in zip(rows[f"{start}, warm start"], rows[f"{start}, GRPO"], strict=True)
            ]
        )
        spread = added.std(ddof=1) / np.sqrt(len(added)) if len(added) > 1 else float("nan")
        print(f"{start}: GRPO adds {added.mean():+.4f}, standard error {spread:.4f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
