"""One night: what came in, what is bought, what is learned from it, and what follows.

    pull → outcomes → buy → train → judge → promote, or canary, or say why not

Every step may be killed at any point: traces are pulled on from where it stopped, tables and
checkpoints appear whole or not at all, paid answers are kept before anything is made of them, and a
run whose outcomes were learned from already says so and does nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from xrouter_lg.backfill import Backfill, Conditions, Grader, Selection
from xrouter_lg.backfill.session import CACHE_NAME, Preview
from xrouter_lg.checkpoints.aliases import (
    Alias,
    alias_file,
    promote,
    read_alias,
    resolve_checkpoint,
)
from xrouter_lg.checkpoints.family_head import FamilyHead
from xrouter_lg.checkpoints.folder import MANIFEST_FILE, read_manifest
from xrouter_lg.checkpoints.manifest import CheckpointError, Manifest
from xrouter_lg.episodes.build_report import BuildReport
from xrouter_lg.episodes.scoring import feedback_verifiers, open_scoring
from xrouter_lg.episodes.to_table import outcomes_from_store
from xrouter_lg.errors import ConfigurationError
from xrouter_lg.fitting.from_log import FromLog, learned_from, write_from_log
from xrouter_lg.fitting.read_lesson import read_log
from xrouter_lg.judge.one_sided import Conclusion, conclude_from_log
from xrouter_lg.learn.settings import CANDIDATE, PRODUCTION, LearnSettings
from xrouter_lg.learn.state import Night, add_night, read_nights
from xrouter_lg.outcomes.grid import OutcomeGrid, fingerprint_of
from xrouter_lg.policies.utility import load_head
from xrouter_lg.pool.pool import ModelPool
from xrouter_lg.tracing.store.trace_store import TraceStore

Say = Callable[[str], None]
_A_CENT = Decimal("0.01")
NOTHING_NEW, NOTHING = "nothing new", "nothing to learn"


@dataclass
class Learned:
    """What a run did."""

    settings: LearnSettings
    done: str = NOTHING
    """``promoted``, ``canary``, ``kept``, ``use CARD``, ``nothing to learn`` or ``nothing new``; of
    a dry run, what it would do next."""
    reason: str = ""
    pulled: str = ""
    """In words."""
    built: BuildReport | None = None
    preview: Preview | None = None
    """What buying would ask, where there is a budget."""
    bought_usd: Decimal = Decimal(0)
    bought: int = 0
    table: OutcomeGrid | None = None
    learned: FromLog | None = None
    concluded: Conclusion | None = None
    checkpoint: Path | None = None
    manifest: Manifest | None = None
    before: Alias | None = None
    """What served when the run began."""
    nights: list[Night] = field(default_factory=list)
    """Finished runs, this one included."""

    @property
    def refused(self) -> bool:
        """Whether a checkpoint was written that nothing was made of."""
        return self.checkpoint is not None and self.done not in ("promoted", "canary")

    def to_json(self) -> dict[str, Any]:
        return {
            "done": self.done,
            "reason": self.reason,
            "pulled": self.pulled,
            "outcomes": None if self.built is None else self.built.to_dict(),
            "would_buy": None if self.preview is None else self.preview.to_dict(),
            "bought": self.bought,
            "bought_usd": f"{self.bought_usd:f}",
            "checkpoint": None if self.checkpoint is None else self.checkpoint.name,
            "version": None if self.manifest is None else self.manifest.version,
            "served_before": None if self.before is None else self.before.version,
            "conclusion": None if self.concluded is None else self.concluded.to_json(),
            "families": None if self.learned is None else self.learned.grouping.tried,
            "thumbs": None if self.learned is None else str(self.learned.thumbs),
        }


def learn(settings: LearnSettings, *, dry_run: bool = False, say: Say = lambda _: None) -> Learned:
    """One night; see the module. A dry run reads the store and the folder, and calls, writes and
    moves nothing.

    Raises:
        ConfigurationError, OutcomeError, StoreError: a setting, a file or a store is wrong.
        LangSmithError: LangSmith can't be read.
        BackfillError: answers can't be bought.
    """
    night = Learned(settings, before=read_alias(settings.checkpoints, PRODUCTION))
    night.nights = read_nights(settings.folder)
    if not dry_run:
        _pull(night, say)
    _build(night, say, dry_run)
    if dry_run:
        return _planned(night)
    _buy(night, say)
    try:
        night.table = read_log(settings.outcomes, settings.lesson)
    except ConfigurationError as error:
        return _ended(night, NOTHING, str(error), "")
    print_ = _fingerprint(night)
    if night.nights and night.nights[-1].fingerprint == print_:
        last = night.nights[-1]
        night.done = NOTHING_NEW
        night.reason = f"these outcomes were learned from at {last.at}: {last.done}"
        return night
    say("learning")
    try:
        night.learned = learned_from(night.table, settings.lesson, before=_head_before(night))
    except ConfigurationError as error:
        return _ended(night, NOTHING, str(error), print_)
    _conclude(night)
    _write(night, print_)
    return _ended(night, *_move(night, say), print_)


def _pull(night: Learned, say: Say) -> None:
    """What is new in LangSmith, into the store."""
    settings = night.settings
    if settings.langsmith is None:
        return
    from xrouter_lg.langsmith.connection import LangSmith
    from xrouter_lg.langsmith.options import PullOptions
    from xrouter_lg.langsmith.pull import pull

    say(f"pulling {settings.langsmith}")
    month_ago = datetime.now(UTC) - timedelta(days=30)
    options = PullOptions(since=settings.since or month_ago)
    with LangSmith() as langsmith, TraceStore(settings.store) as store:
        summary = pull(settings.langsmith, store, options, langsmith=langsmith)
    night.pulled = (
        f"{summary.traces} traces read from {settings.langsmith}, {summary.new_runs} new runs, "
        f"{summary.new_feedback} new feedback"
    )


def _build(night: Learned, say: Say, dry_run: bool) -> None:
    """The outcome table of the store's traces."""
    settings = night.settings
    if dry_run:
        return
    say("building outcomes")
    pool = None if settings.pool is None else ModelPool.from_yaml(settings.pool, reload=False)
    settings.outcomes.mkdir(parents=True, exist_ok=True)
    with open_scoring(
        settings.outcomes,
        settings.verifiers,
        references=settings.references,
        feedback=feedback_verifiers(settings.feedback),
    ) as scoring:
        night.built = outcomes_from_store(
            settings.store,
            settings.outcomes,
            since=settings.since,
            project=settings.project,
            pool=pool,
            scoring=scoring,
        )


def _buy(night: Learned, say: Say) -> None:
    """Answers that were bought before go back into the table; new ones within the budget."""
    settings = night.settings
    kept = settings.folder / CACHE_NAME
    if settings.pool is None or not (settings.budget > 0 or kept.is_file()):
        return
    with _backfill(settings) as opened:
        if settings.budget > 0:
            say(f"buying answers for at most ${settings.budget}")
            night.preview = opened.preview()
            tally = asyncio.run(opened.run())
            night.bought, night.bought_usd = sum(tally.answered.values()), tally.spent_usd
        else:
            opened.write()


def _backfill(settings: LearnSettings, *, dry_run: bool = False) -> Backfill:
    assert settings.pool is not None
    verifiers = settings.bought_verifiers or settings.verifiers
    return Backfill.open(
        settings.outcomes,
        ModelPool.from_yaml(settings.pool, reload=False),
        # Each night has a budget of its own; what earlier ones spent stays in the cache's books.
        # Without one nothing is asked, and only what was bought before is written.
        Conditions(settings.budget or _A_CENT, new_account=True),
        selection=Selection(),
        grader=None if verifiers is None else Grader.from_yaml(verifiers),
        cache=settings.folder / CACHE_NAME,
        rename=settings.rename,
        dry_run=dry_run,
    )


def _planned(night: Learned) -> Learned:
    """What a run would do, as far as the store and the last table tell."""
    settings = night.settings
    with TraceStore(settings.store, create=False) as store:
        traces = store.count_traces()
    steps = [f"pull {settings.langsmith}"] if settings.langsmith else []
    steps.append(f"build outcomes of {traces} traces")
    if settings.budget > 0:
        steps.append(f"buy answers for at most ${settings.budget}")
        if (settings.outcomes / "outcomes.parquet").is_file():
            with _backfill(settings, dry_run=True) as opened:
                night.preview = opened.preview()
    served = "nothing" if night.before is None else night.before.version
    steps.append(f"train, judge against {served} at cost weight {settings.cost_weight:g}")
    steps.append(f"move {PRODUCTION!r}" + (f" or {CANDIDATE!r}" if settings.canary else ""))
    night.done, night.reason = "planned", "; ".join(steps)
    return night


def _fingerprint(night: Learned) -> str:
    """Of all that decides what is learned."""
    assert night.table is not None
    parts = [fingerprint_of([night.table]), night.settings.told()]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _head_before(night: Learned) -> FamilyHead | None:
    """The head that serves, so that its families keep their names."""
    if night.before is None:
        return None
    try:
        folder = resolve_checkpoint(alias_file(night.settings.checkpoints, PRODUCTION))
        return load_head(read_manifest(folder), folder)
    except (CheckpointError, ValueError):
        return None  # of another version, or gone: families begin anew


def _conclude(night: Learned) -> None:
    assert night.learned is not None
    learned = night.learned
    night.concluded = conclude_from_log(
        learned,
        cost_weight=night.settings.cost_weight,
    )


def _write(night: Learned, fingerprint: str) -> None:
    """The checkpoint, named by the day and by what it was learned from: a run that was killed
    afterwards finds it."""
    assert night.learned is not None
    assert night.concluded is not None
    folder = night.settings.checkpoints / f"{datetime.now(UTC):%Y-%m-%d}-{fingerprint[:8]}"
    if folder.joinpath(MANIFEST_FILE).is_file():
        night.manifest = read_manifest(folder)
    else:
        folder.parent.mkdir(parents=True, exist_ok=True)
        night.manifest = write_from_log(
            folder, night.learned, night.settings.lesson, verdict=night.concluded.to_json()
        )
    night.checkpoint = folder


def _move(night: Learned, say: Say) -> tuple[str, str]:
    """Let an alias point to the checkpoint, if the conclusion allows it; what was done, and why."""
    concluded, folder = night.concluded, night.checkpoint
    assert concluded is not None
    assert folder is not None
    if concluded.promote:
        say("promoting")
        promote(folder, root=night.settings.checkpoints, alias=PRODUCTION, by="xrouter learn")
        return "promoted", concluded.reason
    if night.settings.canary and concluded.worth_trying:
        promote(folder, root=night.settings.checkpoints, alias=CANDIDATE, by="xrouter learn")
        return "canary", f"{concluded.reason}; {CANDIDATE!r} points to it"
    if concluded.use == "fixed":
        return f"use {concluded.card}", concluded.reason
    return "kept", concluded.reason


def _ended(night: Learned, done: str, reason: str, fingerprint: str) -> Learned:
    """Write down what was done."""
    night.done, night.reason = done, reason
    gain = None
    if night.concluded is not None and night.concluded.over_log is not None:
        gain = night.concluded.over_log.model.value
    entry = Night(
        at=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        fingerprint=fingerprint,
        traces=0 if night.built is None else night.built.extracted.traces,
        scored=0 if night.concluded is None else night.concluded.scored,
        bought_usd=f"{night.bought_usd:f}",
        checkpoint=None if night.checkpoint is None else night.checkpoint.name,
        done=done,
        reason=reason,
        gain=gain,
    )
    add_night(night.settings.folder, entry)
    night.nights = [*night.nights, entry]
    return night
