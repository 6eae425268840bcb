"""``xrouter learn``: one night of learning from what came in."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xrouter_lg.cli.conclusion import print_conclusion
from xrouter_lg.cli.options import (
    STORE,
    AsJson,
    Project,
    Rename,
    Since,
    Store,
    Verifiers,
    parse_pairs,
    parse_when,
)
from xrouter_lg.cli.said import ExitCode, command, echo, print_json
from xrouter_lg.cli.tables import busy

if TYPE_CHECKING:
    from xrouter_lg.learn.run import Learned

app = typer.Typer()

_MONEY = "Money"


@command(
    app,
    "learn",
    example="learn --feedback liked --pool pool.yaml --budget-usd 2",
    interrupted="interrupted; what was paid for and written is kept, run it again to go on",
)
def learn(
    folder: Annotated[
        Path, typer.Option(help="Working folder: outcomes, bought answers, reports.")
    ] = Path("learning"),
    store: Store = STORE,
    langsmith: Annotated[
        str | None, typer.Option(help="LangSmith project to pull new traces from first.")
    ] = None,
    project: Project = None,
    since: Since = None,
    pool: Annotated[
        Path | None,
        typer.Option(help="Pool file: names, prices, and whom answers are bought from."),
    ] = None,
    checkpoints: Annotated[Path, typer.Option(help="Folder of checkpoints and aliases.")] = Path(
        "checkpoints"
    ),
    feedback: Annotated[
        list[str] | None,
        typer.Option(
            "--feedback", help="Feedback key that scores, as KEY or KEY=1..5; repeatable."
        ),
    ] = None,
    verifiers: Verifiers = None,
    bought_verifiers: Annotated[
        Path | None,
        typer.Option(
            "--bought-verifiers",
            help="YAML list of verifiers for bought answers; left out: those of --verifiers.",
            rich_help_panel=_MONEY,
        ),
    ] = None,
    references: Annotated[
        Path | None, typer.Option(help="JSON lines with prompt or prompt_id, and reference.")
    ] = None,
    budget_usd: Annotated[
        str,
        typer.Option(
            "--budget-usd",
            help="The most that buying answers may cost tonight; 0 buys none.",
            rich_help_panel=_MONEY,
        ),
    ] = "0",
    cost_weight: Annotated[
        float, typer.Option(min=0.0, help="λ in use: what is concluded is concluded there.")
    ] = 0.3,
    canary: Annotated[
        bool,
        typer.Option(
            "--canary", help="Let the alias candidate point to what is not yet shown to be better."
        ),
    ] = False,
    min_prompts: Annotated[
        int, typer.Option(min=1, help="Refuse to learn from fewer scored prompts.")
    ] = 100,
    rename: Rename = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done; call and write nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Learn from what came in since last time: pull, build outcomes, buy answers, train, judge, and
    promote what is shown to be better; say why not otherwise, and what would settle it.

    Meant for a scheduler, every night. It may be killed at any point and run again: nothing is paid
    twice, and with nothing new it does nothing. A page of report is in FOLDER/report.html.

    Exit code 0: promoted, tried as a canary, or nothing new; 3: a checkpoint was written and is not
    promoted; 2: a setting is wrong; 130: interrupted, the same command goes on.
    """
    from xrouter_lg.learn.report import write_report
    from xrouter_lg.learn.run import learn as one_night
    from xrouter_lg.learn.settings import LearnSettings

    settings = LearnSettings(
        folder=folder,
        store=store,
        checkpoints=checkpoints,
        langsmith=langsmith,
        project=project,
        since=parse_when(since, "--since"),
        pool=pool,
        feedback=tuple(feedback or ()),
        verifiers=verifiers,
        bought_verifiers=bought_verifiers,
        references=references,
        budget_usd=budget_usd,
        cost_weight=cost_weight,
        canary=canary,
        min_prompts=min_prompts,
        rename=parse_pairs(rename, "--rename", "TABLE=CARD"),
    )
    with busy("learning") as status:
        found = one_night(settings, dry_run=dry_run, say=status.update)
    if not dry_run:
        write_report(found, folder / "report.html")
    if as_json:
        print_json(found.to_json())
    else:
        _print(found, folder)
    if found.refused:
        raise typer.Exit(ExitCode.REFUSED)


def _print(found: Learned, folder: Path) -> None:
    if found.pulled:
        echo(found.pulled)
    if found.built is not None:
        said = found.built.to_dict()
        echo(
            f"{said['traces']} traces: {said['outcomes']} outcomes of {said['prompts']} prompts, "
            f"{said['scored']} scored"
        )
    if found.preview is not None and not found.bought:
        expected = found.preview.mean_usd
        cost = "an unknown sum" if expected is None else f"${expected:.4f}"
        echo(f"to buy: answers about {found.preview.prompts} prompts for {cost}")
    if found.bought:
        echo(f"bought {found.bought} answers for ${found.bought_usd:f}")
    if found.learned is not None:
        echo(str(found.learned.thumbs))
    if found.concluded is not None:
        print_conclusion(found.concluded)
    where = "" if found.checkpoint is None else f" ({found.checkpoint})"
    echo(f"{found.done}{where}: {found.reason}")
    if found.done != "planned":
        echo(f"report: {folder / 'report.html'}")
