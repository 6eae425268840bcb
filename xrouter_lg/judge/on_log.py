"""A checkpoint judged on a log: of each request one card's answer is known.

The checkpoint is asked what it would do with every request, and that is weighed against what the
log did by what the log tells (:mod:`xrouter_lg.judge.one_sided`). On the very log that it was
learned from, its own choices would be judged by what they were made of: there fits that leave a
part of the requests out stand for it, as when it was trained.

What several calls come to depends on answers that such a log does not have. Plans are judged on
those of its prompts that several cards answered, as on any table: what was bought by chance
(`xrouter backfill`) is such a sample. A chat model that calls cards as tools is judged on the log
where each of its decisions is one call.
"""

from __future__ import annotations

import dataclasses
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np

from xrouter_lg.arrays import Ints
from xrouter_lg.checkpoints.folder import read_manifest
from xrouter_lg.checkpoints.manifest import Manifest
from xrouter_lg.errors import ConfigurationError
from xrouter_lg.fitting.from_log import FromLog, learned_from
from xrouter_lg.fitting.read_lesson import LessonSettings, log_of
from xrouter_lg.judge.choosers import chooser_of
from xrouter_lg.judge.gate.assess import MIN_PROMPTS
from xrouter_lg.judge.halves import recorded
from xrouter_lg.judge.one_sided import Conclusion, conclude_from_log
from xrouter_lg.judge.settings import JudgeSettings
from xrouter_lg.outcomes.grid import OutcomeGrid, fingerprint_of
from xrouter_lg.outcomes.table import OutcomeTable
from xrouter_lg.value.costs import priced


@dataclass(frozen=True)
class JudgedLog:
    """What a log says of a checkpoint."""

    settings: JudgeSettings
    manifest: Manifest
    concluded: Conclusion
    learned_from_it: bool
    """Whether the checkpoint was learned from this very log."""

    @property
    def promote(self) -> bool:
        return self.concluded.promote

    def to_json(self) -> dict[str, Any]:
        """Plain values, as `xrouter promote --report` reads them."""
        return {
            "checkpoint": {
                "name": self.settings.checkpoint.name,
                "version": self.manifest.version,
                "kind": self.manifest.kind,
            },
            "outcomes": self.settings.outcomes.name,
            "learned_from_it": self.learned_from_it,
            "promote": self.promote,
            # The log is what production did.
            "production": None
            if self.settings.production is None
            else read_manifest(self.settings.production).version,
            "pools": [{"verdict": self.concluded.to_json()}],
        }


def log_to_judge(settings: JudgeSettings) -> OutcomeGrid | None:
    """The table, if it is a log: more than half of its scored prompts have one card's outcome.

    Raises:
        ConfigurationError: the table can't be used.
    """
    manifest = read_manifest(settings.checkpoint)
    how = LessonSettings(
        sources=settings.sources or (),
        models=settings.models or (),
        rename={**recorded(manifest, "rename", {}), **settings.rename},
    )
    table = OutcomeTable.load(settings.outcomes, settings.prompts)
    log = log_of(table, how)
    known = (np.isfinite(log.score) & np.isfinite(log.cost)).sum(1)
    scored = np.isfinite(log.score).any(1)
    if 2 * int((known[scored] > 1).sum()) >= int(scored.sum()):
        return None
    return None if _plans(manifest) and _answered_by_several(log) >= MIN_PROMPTS else log


def _plans(manifest: Manifest) -> bool:
    """Whether a request's cost and score depend on several answers."""
    return manifest.cascade is not None and manifest.cascade.turns > 1


def _answered_by_several(log: OutcomeGrid) -> int:
    """Prompts of the largest group that the same cards answered, two of them at least."""
    sizes = [len(pool.rows) for pool in log.pools() if len(pool.models) > 1]
    return max(sizes, default=0)


def judge_on_log(settings: JudgeSettings, log: OutcomeGrid) -> JudgedLog:
    """What follows from a log for a checkpoint, at the cost weight of the settings.

    Raises:
        ConfigurationError: several calls, which a log of single calls can't judge, or a log that
            tells too little.
        CheckpointError: the checkpoint can't be loaded.
    """
    manifest = read_manifest(settings.checkpoint)
    if _plans(manifest):
        raise ConfigurationError(
            f"{str(settings.outcomes)!r} is a log of one answer per request, and a checkpoint of "
            f"kind {manifest.kind!r} makes several calls: it is judged on prompts that the same "
            f"cards answered, of which the log has {_answered_by_several(log)} and {MIN_PROMPTS} "
            "are needed. Buy their answers (`xrouter backfill`), or judge it on live traffic "
            "(`xrouter shadow`)"
        )
    learned = learned_from(log, LessonSettings(min_prompts=1))
    own = fingerprint_of([learned.table]) == manifest.data.get("fingerprint")
    concluded = conclude_from_log(
        learned,
        cost_weight=settings.cost_weight,
        c_ref_usd=manifest.c_ref_usd,
        taken_N=None if own else _taken(settings, manifest, learned),
    )
    return JudgedLog(settings, manifest, concluded, own)


def _taken(settings: JudgeSettings, manifest: Manifest, learned: FromLog) -> Ints:
    """[N] the card that the checkpoint takes on every request, if it may take any."""
    from xrouter_lg.judge.run import asking_of

    table = learned.table
    strange = [name for name in table.cards if name not in {c.name for c in manifest.every_card}]
    if len(strange) == len(table.cards):
        raise ConfigurationError(
            f"no card of the table ({', '.join(table.cards)}) is known to the checkpoint; name "
            "what stands for what (--rename TABLE=CARD)"
        )
    known = table.of([m for m, card in zip(table.models, table.cards, strict=True)
                      if card not in strange])  # fmt: skip
    # Every known card may be taken, whether or not its outcome is in the log.
    usd_M = priced(np.array([np.nanmean(c) if np.isfinite(c).any() else np.nan
                             for c in known.cost.T]))  # fmt: skip
    shape = known.score.shape
    asked = dataclasses.replace(
        known,
        score=np.zeros(shape),
        cost=np.broadcast_to(usd_M, shape).copy(),
        # Plans of one call look at no answer.
        more={"answer": np.full(shape, -1), "length": np.zeros(shape, dtype=np.int64)},
    )
    with closing(chooser_of(settings.checkpoint, manifest.kind, asking_of(settings))) as chooser:
        choices = chooser.choices(asked, (settings.cost_weight,))
    column = {name: at for at, name in enumerate(table.models)}
    said = choices.select("source", "task", "prompt_id", "model").rows()
    others = sum(row[3] not in column for row in said)
    if others:
        raise ConfigurationError(
            f"{str(settings.outcomes)!r} is a log of one answer per request, and of its "
            f"{len(said)} requests the checkpoint answers {others} itself or by several calls: "
            "judge it on prompts that every card answered (`xrouter backfill`), or on live "
            "traffic (`xrouter shadow`)"
        )
    by_key = {tuple(row[:3]): column[row[3]] for row in said}
    return np.array([by_key[key] for key in table.keys], dtype=np.int64)
