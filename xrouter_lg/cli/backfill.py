"""``xrouter backfill``: buy the answers that teach most, within a budget."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xrouter_lg.cli.options import AsJson, Rename, Verifiers, parse_listed, parse_pairs
from xrouter_lg.cli.said import ExitCode, command, echo, print_json

if TYPE_CHECKING:
    from xrouter_lg.backfill import Backfill, Preview, Runner, Tally

app = typer.Typer(help="Ask the other cards about chosen prompts.")

_MONEY = "Money"
_CHOICE = "Which prompts"


@command(app, "backfill", example="backfill outcomes --pool pool.yaml --budget-usd 5")
def backfill(
    folder: Annotated[Path, typer.Argument(help="Folder with outcomes and prompts.")],
    pool: Annotated[Path, typer.Option(help="Pool file with the cards to ask.")],
    budget_usd: Annotated[
        str,
        typer.Option(
            help="The most that all runs on this cache may cost together.",
            rich_help_panel=_MONEY,
        ),
    ],
    cards: Annotated[str | None, typer.Option(help="Ask only these: a,b.")] = None,
    limit: Annotated[
        int | None, typer.Option(help="Ask about so many prompts.", rich_help_panel=_CHOICE)
    ] = None,
    strategy: Annotated[
        str,
        typer.Option(
            help="value: what adds most to routing, while it is worth its price; random: all.",
            rich_help_panel=_CHOICE,
        ),
    ] = "value",
    rounds: Annotated[
        int,
        typer.Option(help="Of value: how often to learn and choose anew.", rich_help_panel=_CHOICE),
    ] = 6,
    horizon_requests: Annotated[
        float | None,
        typer.Option(
            help="Requests to be served with what is learned; a month of the log's.",
            rich_help_panel=_CHOICE,
        ),
    ] = None,
    cost_weight: Annotated[
        float | None,
        typer.Option(help="They will be routed with it; many.", rich_help_panel=_CHOICE),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of every draw.", rich_help_panel=_CHOICE)] = 0,
    concurrency: Annotated[int, typer.Option(help="Calls at a time.")] = 8,
    max_tokens: Annotated[int | None, typer.Option(help="Longest answer of any card.")] = None,
    repeat: Annotated[int, typer.Option(help="Answers per prompt and card.")] = 1,
    verifiers: Verifiers = None,
    rescore: Annotated[
        bool, typer.Option("--rescore", help="Judge answers again that have a verdict.")
    ] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Ask again what failed for good.")
    ] = False,
    rename: Rename = None,
    cache: Annotated[
        Path | None, typer.Option(help="Where answers are kept; FOLDER/backfill.db.")
    ] = None,
    new_budget: Annotated[
        bool,
        typer.Option(
            "--new-budget",
            help="Don't count what earlier runs spent. Leave it out to go on with a run.",
            rich_help_panel=_MONEY,
        ),
    ] = False,
    allow_unknown_price: Annotated[
        bool,
        typer.Option(
            "--allow-unknown-price",
            help="Ask cards without a price too; their calls are not limited.",
            rich_help_panel=_MONEY,
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what it would cost and ask nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Ask the cards of a pool about prompts of an outcome table that lack their outcomes.

    Answers are kept for good in the cache: the same command goes on where it was stopped, and
    pays nothing twice. Exit code 0 when all was asked, nothing more is worth its price or the
    budget is used up, 1 when a card was given up on, 2 for a mistake, 130 when interrupted.
    """
    from xrouter_lg.backfill import Backfill, Conditions, Grader, Selection
    from xrouter_lg.pool.pool import ModelPool

    selection = Selection(
        strategy=strategy,  # type: ignore[arg-type]  # checked by the class
        rounds=rounds,
        cost_weight=cost_weight,
        horizon_requests=horizon_requests,
        seed=seed,
        limit=limit,
        max_tokens=max_tokens,
        repeat=repeat,
        retry_failed=retry_failed,
        rescore=rescore,
    )
    conditions = Conditions(
        budget_usd,
        concurrency=concurrency,
        allow_unknown_price=allow_unknown_price,
        new_account=new_budget,
    )
    grader = None if verifiers is None else Grader.from_yaml(verifiers, again=rescore)
    opened = Backfill.open(
        folder,
        ModelPool.from_yaml(pool, reload=False),
        conditions,
        cards=None if cards is None else parse_listed([cards]),
        selection=selection,
        grader=grader,
        cache=cache,
        rename=parse_pairs(rename, "--rename", "TABLE=CARD"),
        dry_run=dry_run,
    )
    with opened:
        if dry_run:
            _show_preview(opened.preview(), as_json)
            return
        tally = _run(opened, quiet=as_json)
        _show_result(opened, tally, as_json)
    if tally.stopped == "interrupted":
        raise typer.Exit(ExitCode.INTERRUPTED)
    if tally.gave_up:
        raise typer.Exit(ExitCode.BAD)


def _run(opened: Backfill, *, quiet: bool) -> Tally:
    """Run with a progress line on standard error. The first Ctrl-C (or SIGTERM) waits for the
    calls in flight, the second one drops them."""
    from xrouter_lg.cli.tables import console

    out = console(stderr=True, fitted=False)

    async def work() -> Tally:
        with _Line(out, opened, shown=not quiet) as line, _signals(line) as started:
            return await opened.run(line.update, on_start=started)

    try:
        return asyncio.run(work())
    except (KeyboardInterrupt, asyncio.CancelledError):
        echo(
            "xrouter: dropped the calls in flight; they count with their worst case. All answers "
            "are kept: the same command goes on",
            err=True,
        )
        raise typer.Exit(ExitCode.INTERRUPTED) from None


class _Line:
    """Spend, calls and failures as they go: a bar on a terminal, else a line now and then."""

    def __init__(self, console: Any, opened: Backfill, *, shown: bool) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.progress import TimeRemainingColumn as Remaining

        self.console, self._opened = console, opened
        self._bar = Progress(
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("calls · {task.fields[said]}"),
            Remaining(),
            console=console,
            disable=not shown or not console.is_terminal,
        )
        self._plain = shown and not console.is_terminal
        self._task = self._bar.add_task("", total=len(opened.work.jobs), said="")
        self._next_said = 0.0
        self._gave_up: set[str] = set()

    def __enter__(self) -> _Line:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def say(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def update(self, tally: Tally) -> None:
        for card in tally.gave_up.keys() - self._gave_up:
            self._gave_up.add(card)
            if self._plain or not self._bar.disable:
                self.say(f"gave up on {card}: {tally.gave_up[card]}; the others go on")
        said = (
            f"${tally.counted_usd:.4f} of ${tally.budget_usd:f} · "
            f"{sum(tally.failed.values())} failed · {tally.in_flight} in flight"
        )
        self._bar.update(self._task, total=tally.calls, completed=tally.done, said=said)
        share = tally.done / max(tally.calls, 1)
        if self._plain and share >= self._next_said:
            # The last line is said once: no share is above 1.
            self._next_said = min(share + 0.1, 1.0) if share < 1 else 2.0
            self.say(f"{tally.done}/{tally.calls} calls · {said}")


@contextmanager
def _signals(line: _Line) -> Iterator[Any]:
    """What to call with the runner, once there is one, so that Ctrl-C ends it gently."""
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    runners: list[Runner] = []

    def interrupted() -> None:
        if not runners or runners[0].stopping:
            if task is not None:
                task.cancel()
            return
        runners[0].stop()
        line.say("stopping: waiting for the calls in flight, which are paid for; again: drop them")

    numbers = (signal.SIGINT, signal.SIGTERM)
    with contextlib.ExitStack() as stack:
        # Windows' loops have no signal handlers: there Ctrl-C is a KeyboardInterrupt.
        with contextlib.suppress(NotImplementedError):
            for number in numbers:
                loop.add_signal_handler(number, interrupted)
                stack.callback(loop.remove_signal_handler, number)
        yield runners.append


def _show_preview(preview: Preview, as_json: bool) -> None:
    if as_json:
        print_json(preview.to_dict())
        return
    from rich.table import Table

    from xrouter_lg.cli.tables import console

    table = Table("card", "ask", "cached", "failed before", "expected USD", "at most USD")
    for card in preview.cards:
        counts = (card.ask, card.cached, card.failed_before)
        table.add_row(card.card, *map(str, counts), _usd(card.mean_usd), _usd(card.worst_usd))
    console(fitted=False).print(table)
    echo(
        f"{preview.prompts} prompts, expected ${_usd(preview.mean_usd)}, at most "
        f"${_usd(preview.worst_usd)}. ${preview.spending.counted:f} of ${preview.budget_usd:f} is "
        f"spent; the rest is expected to cover {preview.within_budget} prompts. Nothing was asked."
    )
    if preview.worth_usd is not None:
        echo(
            f"This is the first of about {preview.rounds} rounds. It is expected to add "
            f"{preview.gain or 0.0:+.4f} score points a request, worth ${preview.worth_usd:.2f} "
            f"over {preview.requests:,.0f} requests; later rounds go by what it teaches."
        )
    elif preview.rounds > 1:
        echo(
            f"This is the first of about {preview.rounds} rounds, drawn by chance: too few scores "
            "are known to tell what would teach most."
        )
    if preview.judges:
        echo(f"Verdicts by {', '.join(preview.judges)} come on top.")
    for card in preview.cards:
        for reason, count in card.skipped.items():
            echo(f"  {card.card}: {count} prompts skipped, {reason}")
        if card.ask and card.mean_usd is None:
            echo(f"  {card.card}: price unknown; refused without --allow-unknown-price")


def _show_result(opened: Backfill, tally: Tally, as_json: bool) -> None:
    spending = opened.spending()
    if as_json:
        print_json(_result(opened, tally))
        return
    echo(
        f"{sum(tally.answered.values())} answers for ${tally.spent_usd:f}, "
        f"{sum(opened.work.cached.values())} more were cached; {tally.left} calls not made. "
        f"${spending.counted:f} of ${tally.budget_usd:f} is spent."
    )
    notes = [f"{n} × {card}: {error}" for (card, error), n in sorted(tally.failed.items())]
    notes += [f"gave up on {card}: {why}" for card, why in tally.gave_up.items()]
    if spending.lost:
        notes.append(
            f"{spending.lost} calls were in flight when a run died; whether they were answered "
            f"is unknown, so they count with their worst case, ${spending.lost_usd:f}"
        )
    if spending.unknown:
        notes.append(f"{spending.unknown} calls have an unknown cost that no budget counts")
    if tally.cut:
        notes.append(f"{tally.cut} answers were cut at their length limit; see --max-tokens")
    for note in notes:
        echo(f"  {note}")
    if tally.stopped == "budget":
        echo(
            f"{tally.unaffordable} calls don't fit into what is left: raise --budget-usd, lower "
            "--max-tokens, or start a new account with --new-budget"
        )
    elif tally.stopped == "worth":
        echo(
            "No further answer is expected to be worth its price over "
            f"{opened.chooser.requests:,.0f} requests: raise --horizon-requests if there are more"
        )
    elif tally.left:
        echo("The same command goes on where this one stopped, without --new-budget.")


def _result(opened: Backfill, tally: Tally) -> dict[str, Any]:
    return {
        "stopped": tally.stopped,
        "calls": tally.calls,
        "answered": dict(tally.answered),
        "cached": dict(opened.work.cached),
        "failed": [
            {"card": card, "error": error, "calls": n}
            for (card, error), n in sorted(tally.failed.items())
        ],
        "gave_up": tally.gave_up,
        "left": tally.left,
        "unaffordable": tally.unaffordable,
        "repeated": tally.repeated,
        "cut": tally.cut,
        "graded": tally.graded,
        "skipped": {card: dict(reasons) for card, reasons in opened.work.skipped.items()},
        "run_usd": f"{tally.spent_usd:f}",
        "budget_usd": f"{tally.budget_usd:f}",
        "spending": opened.spending().to_dict(),
        "lost_now": opened.lost,
    }


def _usd(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4f}"
