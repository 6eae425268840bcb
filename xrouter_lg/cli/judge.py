"""``xrouter judge``: score a checkpoint on an outcome table, and say whether it may serve."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xrouter_lg.cli.conclusion import print_conclusion
from xrouter_lg.cli.options import AsJson, Rename, parse_listed, parse_pairs
from xrouter_lg.cli.said import ExitCode, command, echo, print_json
from xrouter_lg.cli.tables import bars

if TYPE_CHECKING:
    from xrouter_lg.judge.on_log import JudgedLog
    from xrouter_lg.judge.run import Judged
    from xrouter_lg.judge.settings import JudgeSettings

app = typer.Typer()


@dataclass(frozen=True)
class Options:
    """The options that say what is judged and how, as :class:`JudgeSettings` has them."""

    checkpoint: Annotated[Path, typer.Option(help="Folder of the checkpoint, or an alias.")]
    outcomes: Annotated[
        Path, typer.Option(help="Folder of an outcome table, or its Parquet of scores and costs.")
    ]
    prompts: Annotated[
        Path | None,
        typer.Option(help="Parquet: the texts of those prompts; left out: the folder's."),
    ] = None
    choices: Annotated[
        Path | None, typer.Option(help="Write one row per prompt and cost weight (Parquet).")
    ] = None
    base: Annotated[
        str | None,
        typer.Option(help="An adapter's base model; left out: where serving looks for it."),
    ] = None
    server: Annotated[
        str | None,
        typer.Option(
            metavar="KIND:URL",
            help="vllm:URL or llama_cpp:URL where a server runs the language model; left out: "
            "this process does.",
        ),
    ] = None
    dtype: Annotated[
        str, typer.Option(help="float32, as serving does, or bfloat16, faster on new processors.")
    ] = "float32"
    train_outcomes: Annotated[
        Path | None,
        typer.Option(help="What it was trained on, likewise: fits the baselines for the gate."),
    ] = None
    train_prompts: Annotated[Path | None, typer.Option(help="The texts of those prompts.")] = None
    split: Annotated[
        str,
        typer.Option(
            help="auto: the held-out side if this is the table it was trained on, else all; "
            "recorded: the manifest's split; all: every prompt."
        ),
    ] = "auto"
    cost_weight: Annotated[
        float, typer.Option(min=0.0, help="λ at which the gate judges; on top of the dial.")
    ] = 0.3
    sources: Annotated[list[str] | None, typer.Option(help="Keep these sources only.")] = None
    models: Annotated[list[str] | None, typer.Option(help="Keep these models only.")] = None
    rename: Rename = None
    router_usd_per_million: Annotated[
        float, typer.Option(min=0.0, help="Price of the router's own tokens.")
    ] = 0.02
    production: Annotated[
        Path | None, typer.Option(help="The checkpoint that serves now: must be beaten too.")
    ] = None
    unseen: Annotated[
        list[Path] | None,
        typer.Option(help="A checkpoint trained without some families, judged on those."),
    ] = None
    baselines: Annotated[
        bool | None,
        typer.Option(
            "--baselines/--no-baselines",
            help="Fit and judge all baselines on both splits; left out: for a report only.",
        ),
    ] = None
    looks: Annotated[
        int, typer.Option(min=1, help="Candidates judged on these prompts so far, this included.")
    ] = 1
    tolerance: Annotated[
        float, typer.Option(min=0.0, help="Utility that a family of prompts may lose.")
    ] = 0.02
    examples: Annotated[
        int, typer.Option(min=0, help="Regressions shown with their prompts; 0: none.")
    ] = 8
    draws: Annotated[int, typer.Option(min=20, help="Bootstrap resamples.")] = 1000
    seed: Annotated[int, typer.Option(help="Of the resamples.")] = 0
    cache: Annotated[
        Path | None, typer.Option(help="Folder of kept readings; left out: the user's cache.")
    ] = None

    def settings(self, *, baselines: bool) -> JudgeSettings:
        """``baselines`` unless they were asked for, or not."""
        from xrouter_lg.judge.estimates import cache_folder
        from xrouter_lg.judge.settings import JudgeSettings

        if self.split not in ("auto", "recorded", "all"):
            raise typer.BadParameter(f"--split is {self.split!r}; it is auto, recorded or all")
        if self.dtype not in ("float32", "bfloat16"):
            raise typer.BadParameter(f"--dtype is {self.dtype!r}; it is float32 or bfloat16")
        outcomes, prompts = _files(self.outcomes, self.prompts)
        if prompts is None:
            raise typer.BadParameter(
                f"--outcomes {str(self.outcomes)!r} is no folder; give the folder of an outcome "
                "table, or its files by --outcomes and --prompts"
            )
        train_outcomes, train_prompts = _files(self.train_outcomes, self.train_prompts)
        read: dict[str, Any] = {
            "checkpoint": _folder(self.checkpoint),
            "outcomes": outcomes,
            "prompts": prompts,
            "train_outcomes": train_outcomes,
            "train_prompts": train_prompts,
            "sources": parse_listed(self.sources),
            "models": parse_listed(self.models),
            "rename": parse_pairs(self.rename, "--rename", "TABLE=CARD"),
            "production": None if self.production is None else _folder(self.production),
            "unseen": tuple(self.unseen or ()),
            "baselines": baselines if self.baselines is None else self.baselines,
            "cache": cache_folder() if self.cache is None else self.cache,
        }
        return JudgeSettings(**{**vars(self), **read})


def _files(outcomes: Path | None, prompts: Path | None) -> tuple[Path | None, Path | None]:
    """The two files of a table that is named by its folder, or by themselves."""
    if outcomes is None or prompts is not None or not outcomes.is_dir():
        return outcomes, prompts
    from xrouter_lg.fitting.read_lesson import OUTCOMES, PROMPTS

    return outcomes / OUTCOMES, outcomes / PROMPTS


@command(
    app,
    "judge",
    example="judge --checkpoint checkpoints/mine --outcomes outcomes --gate",
    interrupted="interrupted; what was read is kept, run it again to go on",
)
def judge(
    options: Options,
    report: Annotated[
        Path | None, typer.Option(help="Write an HTML page here, and its JSON beside it.")
    ] = None,
    gate: Annotated[
        bool, typer.Option("--gate", help="Exit code 3 unless the verdict promotes.")
    ] = False,
    push: Annotated[
        str | None,
        typer.Option(
            metavar="EXPERIMENT",
            help="Show the choices at --cost-weight as this LangSmith experiment, on --dataset.",
        ),
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="LangSmith dataset of --push; made if there is none.")
    ] = None,
    endpoint: Annotated[str | None, typer.Option(help="LangSmith's URL, as for traces.")] = None,
    as_json: AsJson = False,
) -> None:
    """Score a checkpoint on an outcome table, at every cost weight of its dial.

    The serving policy is asked, prompt by prompt; the table only pays for what it chose. Readings
    are kept: Ctrl-C loses little, and a second run is quick. Of a log (one answer per request) it
    says what the log proves, and what would settle the rest; --report then writes the JSON alone.

    Exit code 0: judged (with --gate: promote); 3: with --gate, not promoted; 2: a file or a
    setting is wrong; 130: interrupted.
    """
    if (push is None) != (dataset is None):
        raise typer.BadParameter("--push and --dataset go together: give both or neither")
    settings = options.settings(baselines=report is not None)
    log = _of_log(settings)
    if log is not None:
        _end(log, report, push, gate=gate, as_json=as_json)
        return
    judged = _run(settings, report)
    if push is not None and dataset is not None:
        pushed = _push(judged, push, dataset, endpoint)
        echo(pushed, err=True)
    if as_json:
        print_json(judged.to_json())
    else:
        _print(judged, report)
    if gate and judged.promote is not True:
        raise typer.Exit(ExitCode.REFUSED)


def _of_log(settings: JudgeSettings) -> JudgedLog | None:
    """What a log says; None for a table that is none."""
    from xrouter_lg.cli.tables import busy
    from xrouter_lg.judge.on_log import judge_on_log, log_to_judge

    files = settings.outcomes.is_file() and settings.prompts.is_file()
    if not files or (settings.train_outcomes is None) != (settings.train_prompts is None):
        return None  # judging says what is wrong
    with busy("reading"):
        log = log_to_judge(settings)
        return None if log is None else judge_on_log(settings, log)


def _end(
    judged: JudgedLog, report: Path | None, push: str | None, *, gate: bool, as_json: bool
) -> None:
    """Print what a log says."""
    if push is not None:
        raise typer.BadParameter("--push shows outcomes of every choice; a log has one a request")
    data = judged.to_json()
    if report is not None:
        from xrouter_lg.files import write_json

        write_json(report.with_suffix(".json"), data)
    if as_json:
        print_json(data)
    else:
        print_conclusion(judged.concluded)
        if judged.learned_from_it:
            echo(
                "the checkpoint was learned from this log: fits that leave a part out stand for it"
            )
        if report is not None:
            echo(f"wrote {report.with_suffix('.json')}")
    if gate and not judged.promote:
        raise typer.Exit(ExitCode.REFUSED)


def _run(settings: JudgeSettings, report: Path | None) -> Judged:
    from rich.progress import BarColumn, TimeRemainingColumn

    from xrouter_lg.judge.run import judge_checkpoint

    columns = (BarColumn(), TimeRemainingColumn(), "{task.fields[note]}")
    with bars("{task.description:<10}", *columns) as bar:
        reading = bar.add_task("reading", total=None, note="")
        figures = bar.add_task("figures", total=None, note="", visible=False)

        def on_estimate(done: int, whole: int, note: str) -> None:
            bar.update(reading, completed=done, total=whole, note=note)

        def on_step(note: str) -> None:
            bar.update(figures, note=note, visible=True)

        judged = judge_checkpoint(settings, on_estimate=on_estimate, on_step=on_step)
        if report is not None:
            from xrouter_lg.judge.report import write_report

            on_step("report")
            write_report(judged, report)
    return judged


def _push(judged: Judged, experiment: str, dataset: str, endpoint: str | None) -> str:
    from xrouter_lg.langsmith.connection import LangSmith
    from xrouter_lg.langsmith.experiment import push_experiment, results_of_choices
    from xrouter_lg.outcomes import OutcomeTable

    data = judged.to_json()
    settings = judged.settings
    prompts = OutcomeTable.load(settings.outcomes, settings.prompts).prompts.collect()
    with LangSmith(endpoint=endpoint) as langsmith:
        summary = push_experiment(
            results_of_choices(judged.choices, prompts, cost_weight=settings.cost_weight),
            dataset=dataset,
            experiment=experiment,
            langsmith=langsmith,
            metadata={
                "checkpoint": data["checkpoint"]["version"],
                "cost_weight": settings.cost_weight,
                "promote": data["promote"],
            },
        )
    return str(summary)


def _folder(path: Path) -> Path:
    from xrouter_lg.checkpoints.aliases import resolve_checkpoint

    return resolve_checkpoint(path)


def _print(judged: Judged, report: Path | None) -> None:
    from rich.markup import escape
    from rich.table import Table

    from xrouter_lg.cli.tables import console
    from xrouter_lg.judge.report.page import interval, plain

    out = console(fitted=False)
    data = judged.to_json()
    out.print(
        f"{escape(data['checkpoint']['name'])} {data['checkpoint']['version']}: "
        f"{data['prompts']} prompts, {escape(data['split'])}",
        highlight=False,
    )
    table = Table("pool", "prompts", "gain over zero router", "parity cost", "over kNN", "dial")
    for pool in judged.pools:
        score = pool.parts["all"]
        table.add_row(
            escape(f"{', '.join(pool.sources)} ({len(pool.models)} models)"),
            str(pool.prompts),
            interval(score.metrics.gain),
            plain(score.metrics.parity_share),
            interval(pool.over_knn),
            "monotone" if score.dial.monotone else "not monotone",
        )
    out.print(table)
    if strangers := data["models_unknown_to_checkpoint"]:
        out.print(f"{len(strangers)} models of the table are no cards of it", style="dim")
    for pool in judged.pools:
        if pool.verdict is not None:
            said = "promote" if pool.verdict.promote else f"use {pool.verdict.use}"
            out.print(f"gate at {pool.verdict.cost_weight:g}: {escape(said)}", highlight=False)
            for reason in pool.verdict.reasons:
                out.print(f"  {escape(reason)}", highlight=False)
    if judged.promote is None:
        out.print("no verdict: the gate needs what it was trained on (--train-outcomes)")
    for path in (judged.settings.choices, report):
        if path is not None:
            out.print(f"wrote {escape(str(path))}", highlight=False)
