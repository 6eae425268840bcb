"""What a checkpoint of each kind does with the prompts of a table: the serving policy is asked.

A head and slots say what they expect of every card, and every cost weight follows from that. A
cascade carries its plans out on the recorded answers. A chat model that calls tools is asked at
each cost weight, one decision a prompt.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from xrouter_lg.checkpoints.manifest import Kind
from xrouter_lg.fitting.cascade import Recorded
from xrouter_lg.fitting.cascade_choice import courses
from xrouter_lg.judge.choices import make_choices
from xrouter_lg.judge.chooser import Asking, Chooser, P, Taken, frame_of, paid
from xrouter_lg.judge.estimates import Estimates, estimate_head, estimate_prompts
from xrouter_lg.judge.tool_chooser import ToolsChooser
from xrouter_lg.outcomes.conversation import conversations
from xrouter_lg.outcomes.grid import OutcomeGrid
from xrouter_lg.policies.cascade.policy import CascadePolicy
from xrouter_lg.policies.checkpoints import load_policy, remote_policy
from xrouter_lg.policies.head import HeadPolicy
from xrouter_lg.policies.slots.prompts import SlotPolicy
from xrouter_lg.policies.trained import TrainedPolicy


class _Estimating(Chooser[P]):
    """One that says what it expects of every card."""

    @abstractmethod
    def estimates(self, rows: OutcomeGrid) -> Estimates: ...

    def choices(self, rows: OutcomeGrid, weights: Sequence[float]) -> pl.DataFrame:
        return make_choices(
            rows,
            self.estimates(rows),
            c_ref_usd=self.manifest.c_ref_usd,
            cost_weights=weights,
            router_usd_per_million=self.asking.router_usd_per_million,
        )


class HeadChooser(_Estimating[HeadPolicy]):
    """A family head alone."""

    def estimates(self, rows: OutcomeGrid) -> Estimates:
        return estimate_head(self.policy, conversations(rows))


class SlotsChooser(_Estimating[SlotPolicy]):
    """A language model that reads each prompt once."""

    def estimates(self, rows: OutcomeGrid) -> Estimates:
        return estimate_prompts(
            self.policy,
            conversations(rows),
            candidates=[
                [card for card, there in zip(rows.cards, row, strict=True) if there]
                for row in rows.candidates
            ],
            cache=self.asking.cache,
            dtype=self.asking.dtype,
            progress=self.asking.progress,
        )


class CascadeChooser(Chooser[CascadePolicy]):
    """Plans, carried out on recorded answers; each call made is paid."""

    def choices(self, rows: OutcomeGrid, weights: Sequence[float]) -> pl.DataFrame:
        model, turns = self.policy.plans.model, self._turns
        # Columns of the table by number of the model's card.
        column = {
            number: rows.cards.index(card)
            for number, card in enumerate(model.cards)
            if card in rows.cards
        }
        recorded = _recorded(rows, [column.get(m) for m in range(len(model.cards))])
        shares = [self.policy.plans.shares(prompt) for prompt in rows.prompts]
        parts = []
        for weight in weights:
            taken: list[Taken | None] = [None] * len(rows)
            for pool in rows.pools():
                there = {rows.models.index(name) for name in pool.models}
                cards = [number for number, at in column.items() if at in there]
                if not cards:
                    raise ValueError(
                        f"cascade {self.policy.version} knows none of {', '.join(pool.models)}, "
                        f"the only outcomes of {len(pool.rows)} prompts; leave them out (--models)"
                    )
                done = courses(
                    self.policy.plans,
                    cards,
                    [shares[n] for n in pool.rows],
                    recorded.rows(pool.rows),
                    weight,
                    turns,
                )
                for n, course in zip(pool.rows.tolist(), done, strict=True):
                    called = [column[m] for m in course.called]
                    taken[n] = paid(rows, n, called, column[course.taken])
            parts.append(frame_of(rows, weight, [one for one in taken if one is not None]))
        return pl.concat(parts)

    @property
    def _turns(self) -> int:
        stats = self.manifest.cascade
        assert stats is not None  # as the kind says
        return stats.turns


def _recorded(rows: OutcomeGrid, columns: Sequence[int | None]) -> Recorded:
    """The rows' answers in these columns, one for each card of a cascade; None where the table has
    no such card.

    Raises:
        ValueError: the table keeps no responses.
    """
    if "answer" not in rows.more:
        raise ValueError(
            "the outcomes have no column 'response'; a cascade is judged on recorded answers"
        )
    shape = len(rows), len(columns)
    # Negative numbers agree with none.
    group, length = np.full(shape, -1, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    for m, at in enumerate(columns):
        answer = np.full(len(rows), -1) if at is None else rows.more["answer"][:, at]
        group[:, m] = np.where(answer < 0, -1 - m, answer)
        if at is not None:
            length[:, m] = rows.more["length"][:, at]
    return Recorded(group, length)


def chooser_of(folder: Path, kind: Kind, asking: Asking) -> Chooser[TrainedPolicy]:
    """The chooser of a checkpoint, loaded.

    Raises:
        CheckpointError: it can't be loaded.
    """
    return _CHOOSERS[kind](_policy(folder, kind, asking), asking)


def _policy(folder: Path, kind: Kind, asking: Asking) -> TrainedPolicy:
    if asking.server is None or kind in ("head", "cascade"):
        return load_policy(folder, base=asking.base, dtype=asking.dtype)
    server, colon, url = asking.server.partition(":")
    if not colon or server not in ("vllm", "llama_cpp"):
        raise ValueError(
            f"the server is {asking.server!r}; write vllm:http://HOST:PORT/v1 or llama_cpp:..."
        )
    return remote_policy("vllm" if server == "vllm" else "llama_cpp", url, folder)


_CHOOSERS: Mapping[Kind, Callable[..., Chooser[TrainedPolicy]]] = {
    "head": HeadChooser,
    "slots": SlotsChooser,
    "cascade": CascadeChooser,
    "tools": ToolsChooser,
}
