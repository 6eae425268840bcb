"""``xrouter train``: from an outcome table to a checkpoint, without torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xrouter_lg.cli.conclusion import print_conclusion
from xrouter_lg.cli.options import AsJson, Rename, parse_listed, parse_pairs
from xrouter_lg.cli.said import command, echo, print_json
from xrouter_lg.cli.tables import busy

if TYPE_CHECKING:
    from xrouter_lg.checkpoints.manifest import Manifest
    from xrouter_lg.fitting.read_lesson import LessonSettings
    from xrouter_lg.judge.one_sided import Conclusion

app = typer.Typer()


@command(app, "train", example="train outcomes --output checkpoints/mine")
def train(
    outcomes: Annotated[
        Path, typer.Argument(help="Folder with outcomes.parquet and prompts.parquet.")
    ],
    head: Annotated[
        bool, typer.Option("--head", help="One call per request; what is done without --cascade.")
    ] = False,
    cascade: Annotated[
        bool, typer.Option("--cascade", help="Plans of several calls; needs recorded responses.")
    ] = False,
    output: Annotated[Path | None, typer.Option(help="Folder of the new checkpoint.")] = None,
    pool: Annotated[
        Path | None, typer.Option(help="Pool file: today's prices are kept, to see new ones.")
    ] = None,
    train_share: Annotated[
        float,
        typer.Option(
            help="Share of the prompts learned from; the rest is held out. From one-sided outcomes "
            "all is learned."
        ),
    ] = 0.9,
    split_seed: Annotated[int, typer.Option(help="Which prompts those are.")] = 0,
    sources: Annotated[list[str] | None, typer.Option(help="Keep these sources only.")] = None,
    models: Annotated[
        list[str] | None,
        typer.Option(
            help="Keep these models; left out: those known on every prompt, or in one-sided "
            "outcomes all."
        ),
    ] = None,
    rename: Rename = None,
    min_prompts: Annotated[
        int, typer.Option(min=1, help="Refuse to learn from fewer prompts.")
    ] = 100,
    cost_weight: Annotated[
        float,
        typer.Option(min=0.0, help="λ in use: where one-sided outcomes are concluded from."),
    ] = 0.3,
    turns: Annotated[
        int, typer.Option(min=1, help="With --cascade: decisions a request may take (max_turns).")
    ] = 3,
    splits: Annotated[
        int, typer.Option(min=0, help="With --cascade: first judge on this many half splits.")
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Learn a checkpoint from an outcome table, in seconds to minutes, without torch.

    Kinds of task are found from the requests; labels in the table are a hint. Where every model's
    outcome is known on each prompt, figures are measured on prompts that were held out, and
    `xrouter judge` says whether they are worth promoting. Where the table is one-sided (a log: one
    model's answer per prompt), all of it is learned from, and what follows is printed and stands in
    the manifest: promote, use one model, or keep what is; and what would settle it.

    --cascade makes plans of several calls (needs recorded responses; with --splits 10 it says what
    they are worth). A language model is trained by python training/train.py (docs/training.md).

    Exit code 0: written; 2: the table or a setting is wrong; 3: written, and the log's conclusion
    is not to promote it.
    """
    if head and cascade:
        raise typer.BadParameter("--head and --cascade are two kinds of checkpoint; name one")
    if output is None and not splits:
        raise typer.BadParameter("give the new checkpoint's folder with --output")
    from xrouter_lg.checkpoints.folder import check_target
    from xrouter_lg.fitting.read_lesson import LessonSettings

    how = LessonSettings(
        sources=parse_listed(sources) or (),
        models=parse_listed(models) or (),
        rename=parse_pairs(rename, "--rename", "TABLE=CARD"),
        train_share=train_share,
        split_seed=split_seed,
        pool="" if pool is None else str(pool),
        min_prompts=min_prompts,
    )
    judged = _half_splits(outcomes, how, splits, turns, as_json) if cascade and splits else None
    written, concluded = None, None
    if output is not None:
        check_target(output)
        if cascade:
            written = _train_cascade(outcomes, output, how, turns)
        else:
            written, concluded = _train(outcomes, output, how, cost_weight)
    if as_json:
        print_json(_plain(output, written, judged, concluded))
    elif written is not None:
        _print(output, written)
        if concluded is not None:
            print_conclusion(concluded)
    if concluded is not None and not concluded.promote:
        raise typer.Exit(3)


def _train_cascade(outcomes: Path, output: Path, how: LessonSettings, turns: int) -> Manifest:
    from xrouter_lg.fitting.cascade_checkpoint import train_cascade

    with busy("learning and measuring"):
        return train_cascade(outcomes, output, how, turns=turns)


def _train(
    outcomes: Path, output: Path, how: LessonSettings, cost_weight: float
) -> tuple[Manifest, Conclusion | None]:
    """The checkpoint, and where outcomes are one-sided what follows from them."""
    from xrouter_lg.fitting.from_log import learned_from, write_from_log
    from xrouter_lg.fitting.head_checkpoint import write_head
    from xrouter_lg.fitting.read_lesson import lesson_of, read_either
    from xrouter_lg.judge.one_sided import conclude_from_log

    with busy("learning and measuring"):
        table, complete = read_either(outcomes, how)
        if complete:
            return write_head(output, lesson_of(table, how)), None
        learned = learned_from(table, how)
        concluded = conclude_from_log(
            learned,
            cost_weight=cost_weight,
        )
        return write_from_log(output, learned, how, verdict=concluded.to_json()), concluded


def _half_splits(
    outcomes: Path, how: LessonSettings, splits: int, turns: int, quiet: bool
) -> list[dict[str, float]]:
    from dataclasses import asdict

    from xrouter_lg.fitting.cascade_choice import judge_splits, summary

    rows = []
    for seed, row in enumerate(judge_splits(outcomes, how, splits, turns=turns)):
        rows.append(row)
        if not quiet:
            echo(
                f"split {seed}: gain over the static mix {row.over_mix:+.4f}, over the zero "
                f"router {row.over_zero:+.4f}, parity {row.parity:.0%}"
            )
    if not quiet:
        echo(summary("plans", rows))
    return [asdict(row) for row in rows]


def _plain(
    output: Path | None, written: Manifest | None, judged: Any, concluded: Conclusion | None
) -> dict[str, Any]:
    found: dict[str, Any] = {} if judged is None else {"splits": judged}
    if written is None:
        return found
    if concluded is not None:
        found["conclusion"] = concluded.to_json()
    return {
        **found,
        "checkpoint": str(output),
        "kind": written.kind,
        "version": written.version,
        "cards": [card.name for card in written.cards],
        "train_prompts": written.data["train_prompts"],
        "test_prompts": written.data["test_prompts"],
        **written.metrics,
    }


def _print(output: Path | None, written: Manifest) -> None:
    from rich.markup import escape
    from rich.table import Table

    from xrouter_lg.cli.tables import console

    out = console()
    out.print(
        escape(
            f"{output}: {written.kind} {written.version}, {len(written.cards)} cards, learned from "
            f"{written.data['train_prompts']} prompts"
            + (f", measured on {held}" if (held := written.data["test_prompts"]) else "")
        )
    )
    if not held:
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, what in (
        ("gain_over_zero_router", "gain over the zero router"),
        ("parity_share", "cost at the best fixed model's quality, as a share of its own"),
    ):
        figure = written.metrics.get(name)
        if figure is None or figure["value"] is None:
            table.add_row(what, "never reached" if figure is not None else "-")
        else:
            low, high = (
                f"{figure[k]:.4f}" if figure[k] is not None else "-" for k in ("low", "high")
            )
            table.add_row(what, f"{figure['value']:.4f} [{low}, {high}]")
    out.print(table)
