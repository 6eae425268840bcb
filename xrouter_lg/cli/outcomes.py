"""``xrouter outcomes``: from traces to the table that training reads, and what a table holds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xrouter_lg.cli.options import (
    STORE,
    AsJson,
    Project,
    Since,
    Store,
    Until,
    Verifiers,
    parse_when,
)
from xrouter_lg.cli.said import ExitCode, command, echo, print_json
from xrouter_lg.cli.tables import bars

if TYPE_CHECKING:
    from xrouter_lg.verifiers.grading import Scoring

app = typer.Typer(help="Turn traces into outcomes, and look at them.", no_args_is_help=True)

_INTERRUPTED = "interrupted; verdicts so far are kept, run it again to go on"

References = Annotated[
    Path | None, typer.Option(help="JSON lines with prompt or prompt_id, and reference.")
]
Concurrency = Annotated[int, typer.Option(min=1, help="Verdicts at a time.")]


@command(
    app, "build", example="outcomes build --to outcomes --feedback liked", interrupted=_INTERRUPTED
)
def build(
    to: Annotated[Path, typer.Option("--to", help="Folder for the table's two Parquet files.")],
    store: Store = STORE,
    since: Since = None,
    until: Until = None,
    project: Project = None,
    pool: Annotated[
        Path | None, typer.Option(help="Pool file: names and prices of models in other graphs.")
    ] = None,
    verifiers: Verifiers = None,
    references: References = None,
    feedback: Annotated[
        list[str] | None,
        typer.Option(
            "--feedback", help="Feedback key that scores, as KEY or KEY=1..5; repeatable."
        ),
    ] = None,
    concurrency: Concurrency = 4,
    as_json: AsJson = False,
) -> None:
    """Build the outcome table of recorded traces."""
    from xrouter_lg.episodes.to_table import outcomes_from_store
    from xrouter_lg.pool.pool import ModelPool
    from xrouter_lg.tracing.store.trace_store import TraceStore

    times = {"since": parse_when(since, "--since"), "until": parse_when(until, "--until")}
    cards = None if pool is None else ModelPool.from_yaml(pool)
    with (
        TraceStore(store, create=False) as opened,
        _scoring(to, verifiers, references, feedback or [], concurrency) as scoring,
        _progress() as progress,
    ):
        report = outcomes_from_store(
            opened,
            to,
            **times,
            project=project,
            pool=cards,
            scoring=scoring,
            progress=progress,
        )
    said = report.to_dict()
    if as_json:
        print_json(said)
        return
    echo(
        f"{said['traces']} traces, {said['episodes']} episodes ({said['routed']} routed): "
        f"{said['outcomes']} outcomes of {said['prompts']} prompts in {to}, {said['scored']} "
        f"scored, {said['unpriced']} without a known cost"
    )
    echo(
        f"  {said['known_propensity']} outcomes have a known propensity, {said['drawn']} were "
        f"drawn; {said['feedback']} have feedback, {said['judged_twice']} a verifier's verdict too"
    )
    if said["feedback_on_cut_answers"]:
        echo(
            f"  feedback on {said['feedback_on_cut_answers']} answers that were cut counts for "
            "what was served"
        )
    _say_reasons(said, "skipped", "unscored", "unknown_propensity", "lost_feedback")
    for warning in said["warnings"]:
        echo(f"  warning: {warning}")
    _say_cost(said)


@command(
    app,
    "score",
    example="outcomes score outcomes --verifiers verifiers.yaml",
    interrupted=_INTERRUPTED,
)
def score(
    folder: Annotated[Path, typer.Argument(help="A table's folder; its empty scores are filled.")],
    verifiers: Annotated[Path, typer.Option(help="YAML list of verifiers.")],
    references: References = None,
    concurrency: Concurrency = 4,
    as_json: AsJson = False,
) -> None:
    """Let verifiers judge the answers in a table that have no score yet."""
    from xrouter_lg.outcomes import OutcomeTable
    from xrouter_lg.verifiers.score_table import score_table

    table = OutcomeTable.load(folder)
    table.validate().raise_if_bad()
    with (
        _scoring(folder, verifiers, references, [], concurrency) as scoring,
        _progress() as progress,
    ):
        filled, report = score_table(
            table, scoring, progress=lambda done, total: progress("answers", done, total)
        )
    if report.scored:
        filled.write(folder)
    said = report.to_dict()
    if as_json:
        print_json(said)
        return
    echo(
        f"{said['scored']} answers scored in {folder}, {said['reused_verdicts']} of them "
        "by verdicts that were there"
    )
    _say_reasons(said, "unscored")
    _say_cost(said)


@command(app, "summary", example="outcomes summary outcomes")
def summary(
    paths: Annotated[list[Path], typer.Argument(help="A table's folder, or its files.")],
    as_json: AsJson = False,
) -> None:
    """Validate a table and show what it holds; exit code 1 if it can't be used."""
    begin = time.perf_counter()
    from xrouter_lg.outcomes import OutcomeTable

    table = OutcomeTable.load(*paths)
    report = table.validate()
    found = table.summary() if report.ok else None
    seconds = time.perf_counter() - begin
    if as_json:
        shown: dict[str, Any] = {} if found is None else found.to_dict()
        problems = [str(problem) for problem in report.problems]
        print_json({**shown, "problems": problems, "seconds": round(seconds, 3)})
    else:
        if found is not None:
            echo(str(found))
        for problem in report.problems:
            echo(f"  {problem}")
        done = "loaded and validated" if found is None else "loaded, validated and summarised"
        echo(f"{done} in {seconds:.2f} s")
    if not report.ok:
        raise typer.Exit(ExitCode.BAD)


def _scoring(
    folder: Path,
    verifiers: Path | None,
    references: Path | None,
    feedback: list[str],
    concurrency: int,
) -> AbstractContextManager[Scoring]:
    """What the options ask for, every verifier proven; verdicts are kept in the folder."""
    from xrouter_lg.episodes.scoring import feedback_verifiers, open_scoring
    from xrouter_lg.outcomes import OutcomeError

    try:
        said = feedback_verifiers(feedback)
    except OutcomeError as error:
        raise typer.BadParameter(str(error), param_hint="--feedback") from None
    return open_scoring(
        folder, verifiers, references=references, feedback=said, concurrency=concurrency
    )


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int | None], None]]:
    """A bar per pass."""
    from rich.progress import BarColumn, MofNCompleteColumn, TimeElapsedColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with bars("{task.description}", *columns, transient=False) as bar:
        tasks: dict[str, Any] = {}

        def show(what: str, done: int, total: int | None) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done)

        yield show


def _say_reasons(said: dict[str, Any], *kinds: str) -> None:
    for kind in kinds:
        for reason, count in said[kind].items():
            echo(f"  {kind.replace('_', ' ')}: {count} × {reason}")


def _say_cost(said: dict[str, Any]) -> None:
    if float(said["verifier_cost_usd"]) or said["verdicts_of_unknown_cost"]:
        unknown = said["verdicts_of_unknown_cost"]
        more = f", and {unknown} verdicts whose cost is unknown" if unknown else ""
        echo(f"  verifiers cost ${said['verifier_cost_usd']}{more}")
