"""Backward induction over what an :class:`~xrouter_lg.checkpoints.cascade_model.AnswerModel` knows.

A state is a set of cards that have answered, with who agrees with whom (a partition of the set) and
how long the first answers were (a bin). In it the policy accepts the answer most probably right, or
calls one more card while rounds are left:

    V_0(s) = max_k P(s, answer k right)
    V_r(s) = max(V_0(s), max_m  sum_s' V_{r-1}(s')  -  λ / c_ref · P(s) · E[cost of m | s])

All values carry the probability of their state, so they add up. The first call is the set of up to
``first_most`` cards with the highest sum of V over its states, less its cost. Nothing is sampled
and nothing is tabled by plan: prices, cost weight, missing cards and turns left are taken as they
are at the moment.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from xrouter_lg.checkpoints.cascade_model import AnswerModel
from xrouter_lg.extras import need

Partition = tuple[int, ...]
"""Number of the group of each card, in order of first appearance: (0, 1, 0)."""


@dataclass(frozen=True)
class Values:
    """What every choice is worth, for one request's kind shares, prices and cost weight."""

    first: tuple[int, ...]
    """Cards of the best first set of calls, as numbers of the model."""
    utility: float
    """What it is worth: expected score less λ times expected cost over c_ref."""
    first_utility: Any
    """[S] of every first set, in the order of ``Planner.first_sets``."""
    seen_T_B: Any
    """[states, B] P(state)."""
    single: dict[int, float]
    """Utility of each card called alone and accepted."""
    accept_T_B: Any
    """[states, B] V_0, unnormalised."""
    group_T_B: Any
    """[states, B] group of answers to accept."""
    call_R_E_B: Any
    """[rounds, extensions, B] value of calling one more card with that many rounds left."""


class Planner:
    """Plans among some cards of a model, sets of up to ``most`` of them."""

    def __init__(self, model: AnswerModel, cards: Sequence[int], most: int) -> None:
        np = self._np = need("numpy", "a cascade checkpoint")
        self.model, self.cards = model, tuple(cards)
        self.most = min(most, len(self.cards))
        width = len(self.cards)
        self._place = {card: place for place, card in enumerate(self.cards)}
        sizes = range(1, self.most + 1)
        self._sets = {k: list(itertools.combinations(range(width), k)) for k in sizes}
        self._number = {k: {s: i for i, s in enumerate(sets)} for k, sets in self._sets.items()}
        self._offset, states = {}, 0
        for k in sizes:
            self._offset[k] = states
            states += len(self._sets[k]) * len(partitions(k))
        self.states = states
        self.first_sets = [
            s for k in range(1, min(model.first_most, self.most) + 1) for s in self._sets[k]
        ]
        self._first_start = np.array([self._at(s) for s in self.first_sets])
        self._first_states = int(self._first_start[-1] + len(partitions(len(self.first_sets[-1]))))
        self._first_member = np.array(
            [[place in s for place in range(width)] for s in self.first_sets], dtype=np.float64
        )
        self._extensions()
        self._joint()

    def _at(self, cards: tuple[int, ...], partition: Partition | None = None) -> int:
        k = len(cards)
        at = self._offset[k] + self._number[k][cards] * len(partitions(k))
        return at if partition is None else at + partition_numbers(k)[partition]

    def _extensions(self) -> None:
        """Each state with each further card: its own number, and those of the states after it."""
        np = self._np
        source: list[Any] = []
        group: list[Any] = []
        state: list[Any] = []
        card: list[Any] = []
        count = 0
        self._blocks = []
        for k in range(1, self.most):
            own, more = len(partitions(k)), len(self.cards) - k
            for cards in self._sets[k]:
                base = self._at(cards)
                others = [place for place in range(len(self.cards)) if place not in cards]
                for turn, place in enumerate(others):
                    after = tuple(sorted((*cards, place)))
                    source.append(self._at(after) + np.arange(len(partitions(k + 1))))
                    parent = np.array(_without(k + 1, after.index(place)))
                    group.append(count + parent * more + turn)
                state.append(np.repeat(base + np.arange(own), more))
                card.append(np.tile(others, own))
                count += own * more
            # In a block every state has as many extensions, one after the other.
            start = count - len(self._sets[k]) * own * more
            self._blocks.append((self._offset[k], start, len(self._sets[k]) * own, more))
        empty = np.zeros(0, dtype=np.int64)
        self._child = np.concatenate(source) if source else empty
        self._parent = np.concatenate(group) if group else empty
        self.extension_state = np.concatenate(state) if state else empty
        self.extension_card = np.concatenate(card) if card else empty

    def _joint(self) -> None:
        """``right``: [states, groups, F, B] P(state and this group's answer is right | f);
        ``seen``: [states, F, B] P(state | f)."""
        np, model = self._np, self.model
        p = np.asarray(model.right_F_Q_M, dtype=np.float64)[:, :, list(self.cards)]
        r = np.asarray(model.same_right_F, dtype=np.float64)[:, None, None]
        w = np.asarray(model.same_wrong_F, dtype=np.float64)[:, None, None]
        # The four ways to answer: right as usual, right otherwise, the popular mistake, another.
        ways = np.stack([p * r, p * (1 - r), (1 - p) * w, (1 - p) * (1 - w)])
        weight_F_Q_B = np.asarray(model.share_F_Q, dtype=np.float64)[:, :, None] * np.asarray(
            model.length_share_F_Q_B, dtype=np.float64
        )
        families, bins = len(p), model.bins
        self.right = np.zeros((self.states, self.most, families, bins))
        self.seen = np.zeros((self.states, families, bins))
        for k, sets in self._sets.items():
            member = np.array(sets)
            step = len(partitions(k))
            for number, partition in enumerate(partitions(k)):
                at = self._offset[k] + np.arange(len(sets)) * step + number
                for assigned in assignments(partition):
                    mass = np.ones((families, p.shape[1], len(sets)))
                    for i, group in enumerate(partition):
                        mass = mass * ways[assigned[group]][:, :, member[:, i]]
                    found = np.einsum("fqs,fqb->sfb", mass, weight_F_Q_B, optimize=True)
                    self.seen[at] += found
                    for group, way in enumerate(assigned):
                        if way < 2:
                            self.right[at, group] += found

    def values(
        self, shares: Sequence[float], usd_F_M: Any, cost_weight: float, rounds: int, first: int
    ) -> Values:
        """Values of all choices. ``usd_F_M`` is at today's prices, over the model's cards;
        ``rounds`` of further calls may follow a first one of at most ``first`` cards."""
        np, model = self._np, self.model
        share = np.asarray(shares, dtype=np.float64)
        usd = np.asarray(usd_F_M, dtype=np.float64)[:, list(self.cards)]
        penalty = cost_weight / model.c_ref_usd
        right = np.einsum("tgfb,f->tgb", self.right, share)
        accept, group = right.max(1), right.argmax(1)
        seen = self.seen * share[:, None]
        ratio = np.asarray(model.usd_ratio_F_B, dtype=np.float64)
        usd_T_B_M = np.einsum("tfb,fb,fm->tbm", seen, ratio, usd, optimize=True)
        cost = penalty * usd_T_B_M[self.extension_state, :, self.extension_card]
        value, calls = accept, np.zeros((rounds, len(cost), model.bins))
        for left in range(rounds):
            calls[left] = self._after(value) - cost
            value = np.maximum(accept, self._best(calls[left]))
        usd_S = self._first_member @ (usd.T @ share)
        total = np.add.reduceat(value[: self._first_states].sum(1), self._first_start)
        utility = total - penalty * usd_S
        allowed = np.array([len(s) <= first for s in self.first_sets])
        # Of equals the cheaper one, as the judge has it.
        order = np.lexsort((usd_S, -np.where(allowed, utility, -np.inf).round(9)))
        best_set = int(order[0])
        alone = accept.sum(1)
        return Values(
            first=tuple(self.cards[place] for place in self.first_sets[best_set]),
            utility=float(utility[best_set]),
            first_utility=utility,
            seen_T_B=seen.sum(1),
            single={
                card: float(alone[self._at((place,))] - penalty * (share @ usd[:, place]))
                for card, place in self._place.items()
            },
            accept_T_B=accept,
            group_T_B=group,
            call_R_E_B=calls,
        )

    def _after(self, value: Any) -> Any:
        """[extensions, B] sums over the states that a call leads to."""
        np = self._np
        size = len(self.extension_state)
        columns = [
            np.bincount(self._parent, weights=np.take(column, self._child), minlength=size)
            for column in np.ascontiguousarray(value.T)
        ]
        return np.stack(columns, axis=1)

    def _best(self, value_E_B: Any) -> Any:
        """Best extension [states, B] of every state; -inf where there is none."""
        np = self._np
        bins = value_E_B.shape[1]
        best = np.full((self.states, bins), -np.inf)
        for state, start, states, more in self._blocks:
            block = value_E_B[start : start + states * more].reshape(states, more, bins)
            best[state : state + states] = block.max(1)
        return best

    def state(self, cards: Sequence[int], groups: Sequence[int]) -> tuple[int, list[int]]:
        """Number of the state of these cards in these groups, and the group each card has in it."""
        order = sorted(range(len(cards)), key=lambda i: self._place[cards[i]])
        partition = canonical([groups[i] for i in order])
        places = tuple(self._place[cards[i]] for i in order)
        seat = dict(zip(order, partition, strict=True))
        return self._at(places, partition), [seat[i] for i in range(len(cards))]

    def next_card(self, values: Values, state: int, length_bin: int, rounds: int) -> int | None:
        """The card to call in this state with ``rounds`` left; None to accept."""
        np = self._np
        if rounds < 1 or not len(values.call_R_E_B):
            return None
        low, high = np.searchsorted(self.extension_state, (state, state + 1))
        mine = np.arange(low, high)
        if not len(mine):
            return None
        calls = values.call_R_E_B[min(rounds, len(values.call_R_E_B)) - 1][mine, length_bin]
        best = int(calls.argmax())
        if calls[best] <= values.accept_T_B[state, length_bin] + 1e-12:
            return None
        return self.cards[int(self.extension_card[mine[best]])]


def canonical(labels: Sequence[int]) -> Partition:
    """Groups renumbered in order of first appearance."""
    seen: dict[int, int] = {}
    return tuple(seen.setdefault(label, len(seen)) for label in labels)


@lru_cache(maxsize=16)
def partitions(size: int) -> tuple[Partition, ...]:
    """All ways in which ``size`` answers can agree."""
    found: list[Partition] = [(0,)]
    for _ in range(size - 1):
        found = [(*p, group) for p in found for group in range(max(p) + 2)]
    return tuple(found)


@lru_cache(maxsize=16)
def partition_numbers(size: int) -> dict[Partition, int]:
    return {partition: number for number, partition in enumerate(partitions(size))}


@lru_cache(maxsize=64)
def _without(size: int, place: int) -> tuple[int, ...]:
    """Number of each partition of ``size`` once the answer at ``place`` is taken away."""
    numbers = partition_numbers(size - 1)
    return tuple(numbers[canonical(p[:place] + p[place + 1 :])] for p in partitions(size))


@lru_cache(maxsize=256)
def assignments(partition: Partition) -> tuple[tuple[int, ...], ...]:
    """Ways in which the groups can have come about: 0 right as usual, 1 right in another form,
    2 the popular mistake, 3 another mistake. The first and the third are one group each, and groups
    of several answers are nothing else."""
    size = [partition.count(group) for group in range(max(partition) + 1)]
    choices = [(0, 1, 2, 3) if n == 1 else (0, 2) for n in size]
    return tuple(
        ways for ways in itertools.product(*choices) if ways.count(0) <= 1 and ways.count(2) <= 1
    )
