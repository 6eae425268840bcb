"""The loop from end to end: an app that routes by rules, its traces, training, the app again."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from integrations.demo import report
from integrations.demo.app import DAY_ONE, Served, serve
from integrations.demo.arms import Arm, arm_of, scores_of, shuffled, write_table
from integrations.demo.commands import ROOT, train, xrouter
from integrations.demo.questions import History, Question, write_references
from integrations.demo.recorded.scores import VERIFIERS, Scorer
from integrations.demo.recorded.task import SOURCE
from integrations.llama_cpp.demo import difference
from xrouter_lg import ModelPool, Recorder

CONFIG = "training/configs/demo.yaml"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a run of the demo is asked to do."""

    folder: Path = Path("runs/demo")
    base: str
    """Base model of the router: a GGUF file, a folder or a hub id."""
    cost_weight: float = 0.5
    """λ of the app behind the checkpoint."""
    router_usd_per_million: float = 0.02
    """Price of the router's own tokens."""
    at_once: int = 8
    overrides: tuple[str, ...] = ()
    """Further settings of the training run."""


class Loop:
    """The stages of the demo, in order; each prints what it does."""

    def __init__(
        self, settings: Settings, history: History, pool: ModelPool, console: Console
    ) -> None:
        self.settings, self.history, self.pool, self.console = settings, history, pool, console
        self.folder = settings.folder
        self.store = self.folder / "traces.db"
        self.table = self.folder / "outcomes"
        self.held_out = self.folder / "held_out"
        self.checkpoint = self.folder / "train" / "checkpoint"
        self._started = time.monotonic()

    def run(self) -> bool:
        """Everything; whether the checkpoint is worth more than both the day-one policy and a
        cost-matched shuffle, beyond chance."""
        self._clear()
        before = self.day_one()
        self.outcomes()
        self.learn()
        after = self.after()
        return self.compare(before, after)

    def day_one(self) -> list[Served]:
        """Last week's requests leave traces; the held-out ones tell what the rules are worth."""
        self._title("The app changes in two lines, and routes by rules that a person wrote")
        self.console.print(difference(), markup=False, highlight=False, soft_wrap=True)
        with Recorder(self.store, project=SOURCE) as traces:
            self._serve("last week's requests", DAY_ONE, self.history.seen, traces=traces)
        with Recorder(self.store, project=f"{SOURCE}_before") as traces:
            before = self._serve("held-out requests", DAY_ONE, self.history.held_out, traces=traces)
        self.console.print(
            f"  every request left a trace: xrouter traces list --store {self.store}"
        )
        return before

    def outcomes(self) -> None:
        """Traces to outcomes; the other cards are asked what the rules did not ask them."""
        self._title("Traces become outcomes; what the other models would have said is bought")
        references = self.folder / "references.jsonl"
        write_references(self.history.seen, references)
        asked = str(VERIFIERS.relative_to(ROOT))
        told = ["--verifiers", asked]
        xrouter(
            *("outcomes", "build", "--store", str(self.store), "--project", SOURCE),
            *("--to", str(self.table), *told, "--references", str(references)),
            console=self.console,
        )
        xrouter(
            *("backfill", str(self.table), "--pool", str(self.folder / "pool.yaml")),
            *("--budget-usd", "1", "--strategy", "random", *told),
            *("--concurrency", str(self.settings.at_once)),
            console=self.console,
        )

    def learn(self) -> None:
        """Warm start and GRPO."""
        self._title("A policy is trained on them")
        train(
            *("--config", CONFIG, f"outcomes={self.table}", f"pool={self.folder / 'pool.yaml'}"),
            *(f"base.path={self.settings.base}", f"output={self.folder / 'train'}"),
            *self.settings.overrides,
            console=self.console,
        )

    def after(self) -> list[Served]:
        """The same app with the checkpoint in the place of the rules."""
        from xrouter_lg.policies.checkpoints import load_policy

        self._title("The checkpoint drops into the same app, in the place of the rules")
        policy = load_policy(self.checkpoint, base=self._base)
        try:
            policy.warm_up()
            with Recorder(self.store, project=f"{SOURCE}_after") as traces:
                return self._serve(
                    "held-out requests",
                    policy,
                    self.history.held_out,
                    traces=traces,
                    cost_weight=self.settings.cost_weight,
                )
        finally:
            policy.close()

    def compare(self, before: Sequence[Served], after: Sequence[Served]) -> bool:
        """The held-out requests once more with every fixed card, and everything side by side."""
        from xrouter_lg.checkpoints.folder import read_manifest

        self._title("Before and after, on requests that nothing was learned from")
        weight = self.settings.cost_weight
        served = {
            card: self._serve(f"always {card}", f"fixed:{card}", self.history.held_out)
            for card in self.pool.names
        }
        with Scorer() as judge:
            fixed = {c: arm_of(f"always {c}", s, scores_of(judge, s)) for c, s in served.items()}
            rules = arm_of("day-one rules", before, scores_of(judge, before))
            price = self.settings.router_usd_per_million
            scores = scores_of(judge, after)
            learned = arm_of("checkpoint", after, scores, router_usd_per_million=price)
        every_score = np.array([arm.score for arm in (*fixed.values(), rules, learned)])
        known = np.asarray(np.isfinite(every_score).all(axis=0))
        if not known.all():
            self.console.print(f"  {int((~known).sum())} requests can't be judged on this machine")
        write_table(
            {c: _kept(arm, known) for c, arm in fixed.items()},
            {c: [s for s, k in zip(every, known, strict=True) if k] for c, every in served.items()},
            self.held_out,
        )
        xrouter(
            *("judge", "--checkpoint", str(self.checkpoint)),
            *(() if self._base is None else ("--base", self._base)),
            *("--outcomes", str(self.held_out / "outcomes.parquet")),
            *("--prompts", str(self.held_out / "prompts.parquet")),
            *("--train-outcomes", str(self.table / "outcomes.parquet")),
            *("--train-prompts", str(self.table / "prompts.parquet")),
            *("--cost-weight", f"{weight:g}", "--choices", str(self.folder / "choices.parquet")),
            *("--router-usd-per-million", f"{price:g}"),
            *("--report", str(self.folder / "report.html")),
            console=self.console,
        )
        c_ref = read_manifest(self.checkpoint).c_ref_usd
        fixed = {c: _kept(arm, known) for c, arm in fixed.items()}
        rules, learned = _kept(rules, known), _kept(learned, known)
        shuffle = shuffled(learned, fixed)
        arms = [*fixed.values(), rules, shuffle, learned]
        found = report.gains(
            learned, [rules, shuffle, *fixed.values()], cost_weight=weight, c_ref=c_ref
        )
        self.console.print()
        report.show(self.console, arms, self.pool.names, cost_weight=weight, c_ref=c_ref)
        self.console.print()
        report.show_gains(self.console, learned.name, found)
        won = all(found[name]["utility"].above() for name in (rules.name, shuffle.name))
        report.write_json(
            self.folder / "before_after.json",
            arms,
            found,
            facts={
                "cost_weight": weight,
                "c_ref_usd": c_ref,
                "held_out": int(known.sum()),
                "won": won,
                "fell_back": sum(one.fell_back for one in after),
                "seconds": round(time.monotonic() - self._started, 1),
            },
        )
        picture = self.folder / "frontier.png"
        drawn = report.draw(picture, arms, self.folder / "choices.parquet")
        self._close(won, picture if drawn else None)
        return won

    @property
    def _base(self) -> str | None:
        """What an adapter serves on, where training has not written it beside the checkpoint."""
        return None if (self.folder / "train" / "base").is_dir() else self.settings.base

    def _serve(
        self,
        what: str,
        policy: Any,
        questions: Sequence[Question],
        *,
        traces: Recorder | None = None,
        cost_weight: float = 0.0,
    ) -> list[Served]:
        with _bar(self.console, what, len(questions)) as advance:
            served, seconds = serve(
                self.pool,
                policy,
                questions,
                traces=traces,
                cost_weight=cost_weight,
                at_once=self.settings.at_once,
                advance=advance,
            )
        self.console.print(
            f"  {what}: {len(served)} in {seconds:.1f} s, "
            f"${sum(one.cost_usd for one in served):.4f}",
            highlight=False,
        )
        return served

    def _title(self, text: str) -> None:
        seconds = time.monotonic() - self._started
        self.console.print(f"\n[bold]{text}[/] [dim]({seconds:.0f} s)[/]", highlight=False)

    def _clear(self) -> None:
        """Results of an earlier run; a training run is kept, and done again only if its data or
        settings have changed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for old in self.folder.glob("traces.db*"):
            old.unlink()
        for folder in (self.table, self.held_out):
            shutil.rmtree(folder, ignore_errors=True)

    def _close(self, won: bool, picture: Path | None) -> None:
        verdict = (
            "The checkpoint is worth more than the rules and than its own shuffle, beyond chance."
            if won
            else "The checkpoint is NOT worth more than the rules and its shuffle, beyond chance."
        )
        self.console.print(f"\n[bold]{verdict}[/] (* interval above zero)", highlight=False)
        self.console.print(
            f"  report      {self.folder / 'report.html'}\n"
            + (f"  frontier    {picture}\n" if picture is not None else "")
            + f"  figures     {self.folder / 'before_after.json'}\n"
            f"  checkpoint  {self.checkpoint}\n"
            f"  traces      xrouter traces list --store {self.store}\n"
            f"  {time.monotonic() - self._started:.0f} s in all",
            highlight=False,
        )


def _kept(arm: Arm, known: Any) -> Arm:
    return Arm(arm.name, arm.score[known], arm.cost[known], arm.router[known], arm.shares)


@contextmanager
def _bar(console: Console, what: str, whole: int) -> Iterator[Callable[[int], None]]:
    columns = (TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task(what, total=whole)
        yield lambda done: bar.update(task, completed=done)
