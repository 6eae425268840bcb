"""Three weeks of an app: rules, then what was learned from its traces, then a silent swap."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from integrations.demo import app, closing
from integrations.demo.app import DAY_ONE, UserRequest
from integrations.demo.bookmark import FILE, Bookmark
from integrations.demo.commands import xrouter
from integrations.demo.questions import History
from integrations.demo.replay import RecordedModels
from integrations.demo.users import Users
from integrations.demo.workers import CARDS
from integrations.llama_cpp.demo import difference
from xrouter_lg import ModelPool, Recorder
from xrouter_lg.checkpoints.aliases import read_alias
from xrouter_lg.learn.settings import PRODUCTION
from xrouter_lg.routing.exploration import Exploration
from xrouter_lg.tracing.store.trace_store import TraceStore

SWAP = {CARDS["large"]: CARDS["tiny"]}
"""In week 3 the answers under the first model's name are the second one's."""
FEEDBACK = "liked"
RELEASES = {1: ("support-1.0",), 2: ("support-2.0", "support-2.1"), 3: ("support-2.2",)}
"""Of the app, by week: a project of traces each. In each every question comes once; in another one
it is another request, and stays one."""
# Rules don't know what they don't know: half of a draw is even over the cards, half their own. So
# one request in ten goes to any card.
BY_RULES = Exploration(rate=0.2, share_of_spend=None)
# A checkpoint knows: every request is drawn by how likely each card is the best (Thompson).
BY_DOUBT = Exploration(rate=1.0, share_of_spend=0.1)
_ALARM, _NOT_PROMOTED = 3, 3
"""Exit codes of ``xrouter drift`` and ``xrouter learn`` that are no failures."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a run of the demo is asked to do."""

    folder: Path = Path("runs/demo")
    cost_weight: float = 0.5
    """λ of the app behind the checkpoint."""
    budget_usd: float = 0.0026
    """For bought answers, all nights together: a tenth of what the answers cost that the rules did
    not ask for."""
    seed: int = 0
    """Of users, judge and the order of requests."""
    min_prompts: int = 100
    """Scored requests below which nothing is learned."""

    def told(self, history: History) -> dict[str, Any]:
        """As JSON: what makes it the same run."""
        said = {name: value for name, value in asdict(self).items() if name != "folder"}
        seen, held_out = history.seen, history.held_out
        return {**said, "asked": [q.prompt_id for q in seen], "held_out": len(held_out)}


class Story:
    """The stages of the demo, in order; each prints what it does, and is not done twice."""

    def __init__(
        self,
        settings: Settings,
        models: RecordedModels,
        bookmark: Bookmark,
        pool: ModelPool,
        console: Console,
    ) -> None:
        self.settings, self.models, self.bookmark = settings, models, bookmark
        self.pool, self.console = pool, console
        self.users = Users(settings.seed)
        self.folder = settings.folder
        self.store = self.folder / "traces.db"
        self.checkpoints = self.folder / "checkpoints"
        self._started = time.monotonic()

    @property
    def history(self) -> History:
        return self.models.history

    def run(self) -> bool:
        """Everything; whether what serves at the end is worth more than the rules, beyond
        chance."""
        self._week(1, "The app changes in two lines, and routes by rules that a person wrote")
        self._night(1, self.settings.budget_usd)
        self._week(2, "What was learned serves, and tries what it is not sure of")
        self._night(2)
        self._measure(closing.BEFORE)
        self.models.behind.update(SWAP)
        self._week(3, "A provider swaps the model behind 'large': same name, same price, no word")
        self._drift(3)
        self._night(3)
        self._measure(closing.AFTER)
        return self._close()

    # --- stages ----------------------------------------------------------------------------

    def _week(self, number: int, title: str) -> None:
        stage = f"week {number}"
        self._title(f"Week {number}. {title}")
        if number == 1:
            self.console.print(difference(), markup=False, highlight=False, soft_wrap=True)
        if self.bookmark.is_done(stage):
            return self._say("done in an earlier run")
        self.bookmark.keep(f"{stage} began", f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}")
        for release in RELEASES[number]:
            self._release(release)
        self.bookmark.done(stage)
        return None

    def _release(self, name: str) -> None:
        """Every question once, from another user, and what users say of the answers."""
        asked = app.requests(self.history.seen, seed=self.settings.seed, name=name)
        policy = self._policy(self._serving())
        with Recorder(self.store, project=name) as traces:
            there = {row.trace_id for row in traces.store.routes(project=name)}
            self._serve(
                name,
                policy,
                [one for one in asked if one.id not in there],
                traces=traces,
                exploration=BY_RULES if policy is DAY_ONE else BY_DOUBT,
            )
        self._hear(name, asked)

    def _hear(self, name: str, asked: Sequence[UserRequest]) -> None:
        """Users say what they think of what they got, a third of them; given twice, a thumb counts
        once."""
        questions = {one.id: one.question for one in asked}
        counts, usd, up, down = dict.fromkeys(CARDS, 0), 0.0, 0, 0
        with TraceStore(self.store) as store:
            for row in store.routes(project=name):
                prompt, card = questions[row.trace_id].prompt, str(row.record.route)
                counts[card] += 1
                usd += float(row.record.known_cost_usd)
                truth = self.models.answer(CARDS[card], prompt).score
                thumb = self.users.thumb(row.trace_id, truth)
                if thumb is None:
                    continue
                up, down = up + (thumb == 1), down + (thumb == 0)
                store.record_feedback(
                    row.trace_id, FEEDBACK, thumb, feedback_id=f"{row.trace_id}-{FEEDBACK}"
                )
        shares = ", ".join(f"{count} by {card}" for card, count in counts.items())
        self._say(f"{len(asked)} requests, ${usd:.4f}: {shares}")
        self._say(f"{up} thumbs up, {down} down; nobody says a word about the others")

    def _night(self, number: int, budget_usd: float = 0.0) -> None:
        stage = f"night {number}"
        self._title(f"Night {number}. xrouter learn: outcomes, buy, train, judge, promote")
        if self.bookmark.is_done(stage):
            return self._say("done in an earlier run")
        xrouter(
            *("learn", "--store", str(self.store), "--feedback", FEEDBACK),
            *("--pool", str(self.folder / "pool.yaml"), "--budget-usd", f"{budget_usd:g}"),
            *("--bought-verifiers", str(self.folder / "judge.yaml")),
            *("--cost-weight", f"{self.settings.cost_weight:g}"),
            *("--min-prompts", str(self.settings.min_prompts)),
            *("--folder", str(self.folder / "learning"), "--checkpoints", str(self.checkpoints)),
            console=self.console,
            also=(_NOT_PROMOTED,),
        )
        self.bookmark.keep(stage, self._serving())
        self.bookmark.done(stage)
        return None

    def _drift(self, number: int) -> None:
        """Whether the week's traffic is still what the checkpoint was trained on."""
        self._title("Is anything not as it was? xrouter drift")
        if self._serving() is None:
            return self._say("rules serve, and expect nothing")
        status = xrouter(
            *("drift", "--checkpoint", str(self.checkpoints / PRODUCTION)),
            *("--store", str(self.store), "--since", self.bookmark.get(f"week {number} began")),
            *("--pool", str(self.folder / "pool.yaml"), "--feedback", FEEDBACK),
            console=self.console,
            also=(_ALARM,),
        )
        self.bookmark.keep("alarm", status == _ALARM)
        return None

    def _measure(self, world: str) -> None:
        """The held-out requests, by what served after each of these nights."""
        self._title(f"The requests that nobody has asked yet, {world}")
        for name in closing.ARMS[world]:
            if self.bookmark.get(closing.routes(world, name)) is None:
                served = self._serve(
                    name,
                    self._policy(None if name == closing.RULES else self.bookmark.get(name)),
                    app.requests(self.history.held_out, seed=self.settings.seed, name=name),
                )
                routes = {one.asked.question.prompt_id: one.card for one in served}
                self.bookmark.keep(closing.routes(world, name), routes)

    def _close(self) -> bool:
        self._title("Who was right? The recorded truth, which nothing has learned from")
        figures = closing.Closing(self.history, SWAP, self.settings.cost_weight, self.bookmark.get)
        figures.show(self.console)
        figures.write(self.folder / "figures.json")
        self.bookmark.keep("finished", True)
        self.console.print(
            f"\n  what each night did  {self.folder / 'learning' / 'report.html'}\n"
            f"  figures              {self.folder / 'figures.json'}\n"
            f"  traces               xrouter traces list --store {self.store}\n"
            f"  {time.monotonic() - self._started:.0f} s in all",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
        return figures.won

    # --- parts of stages -------------------------------------------------------------------

    def _serving(self) -> str | None:
        """The checkpoint that serves; None where rules do."""
        alias = read_alias(self.checkpoints, PRODUCTION)
        return None if alias is None else alias.checkpoint

    def _policy(self, checkpoint: str | None) -> Any:
        return DAY_ONE if checkpoint is None else str(self.checkpoints / checkpoint)

    def _serve(
        self,
        what: str,
        policy: Any,
        asked: Sequence[UserRequest],
        *,
        traces: Recorder | None = None,
        exploration: float | Exploration = 0.0,
    ) -> list[app.Served]:
        began = time.monotonic()
        with _bar(self.console, what, len(asked)) as advance:
            served = app.serve(
                self.pool,
                policy,
                asked,
                traces=traces,
                cost_weight=self.settings.cost_weight,
                exploration=exploration,
                advance=advance,
            )
        by = "rules" if policy is DAY_ONE else Path(policy).name
        self._say(f"{what}: {len(served)} requests by {by}, {time.monotonic() - began:.1f} s")
        return served

    def _say(self, text: str) -> None:
        self.console.print(f"  {text}", highlight=False, markup=False, soft_wrap=True)

    def _title(self, text: str) -> None:
        seconds = time.monotonic() - self._started
        self.console.print(f"\n[bold]{text}[/] [dim]({seconds:.0f} s)[/]", highlight=False)


def clear(folder: Path) -> None:
    """Take away what an earlier run of the demo has written; nothing else."""
    for name in ("learning", "checkpoints"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for old in (*folder.glob("traces.db*"), folder / FILE, folder / "figures.json"):
        old.unlink(missing_ok=True)


@contextmanager
def _bar(console: Console, what: str, whole: int) -> Iterator[Callable[[int], None]]:
    columns = (TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task(what, total=whole)
        yield lambda done: bar.update(task, completed=done)
