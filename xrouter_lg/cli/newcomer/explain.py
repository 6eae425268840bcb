"""``xrouter explain``: where a prompt would go and why, or where a recorded request has gone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xrouter_lg.cli.options import STORE, AsJson, Store
from xrouter_lg.cli.said import command, echo, print_json
from xrouter_lg.cli.tables import console, facts_table, plain_table, route_details

if TYPE_CHECKING:
    from rich.console import RenderableType

    from xrouter_lg.cli.newcomer.past import PastRequest
    from xrouter_lg.cli.newcomer.reading import ReadKind, ReadRequest

app = typer.Typer()

_PRODUCTION = Path("checkpoints/production")
_ID = re.compile(r"(?=.*\d)[0-9a-f-]{8,36}")
_SHOWN_WORDS = 8


@command(app, "explain", example='explain "How do I return my order?" --cost-weight 0.5')
def explain(
    text: Annotated[
        str,
        typer.Argument(
            metavar="PROMPT|TRACE",
            help="A prompt, or the id of a recorded request (its beginning will do: at least 8 "
            "characters). A prompt that looks like an id needs a blank in front.",
        ),
    ],
    checkpoint: Annotated[
        Path, typer.Option(help="Folder of a checkpoint, or an alias.")
    ] = _PRODUCTION,
    pool: Annotated[
        Path | None,
        typer.Option(help="Pool file, for today's cards and prices; left out: those of training."),
    ] = None,
    cost_weight: Annotated[
        float, typer.Option(min=0.0, help="λ: 0 is quality alone. A recorded request has its own.")
    ] = 0.3,
    store: Store = STORE,
    as_json: AsJson = False,
) -> None:
    """Say where a prompt would go and why, or why a recorded request went where it did.

    Needs no key and calls nothing: the checkpoint is read by the code that serves it. Shown are the
    kind of request and the words that tell it, what each card is expected to score and to cost, its
    utility, which card is taken, and the cost weights at which another one would be.

    Of a recorded request: the decision, every charge, what was expected of each card then, and what
    the checkpoint (if there is one) expects of each today, cost included; with --pool also what the
    same tokens would have cost with each.

    Exit code 0: explained; 2: no such checkpoint, pool or trace.
    """
    if _ID.fullmatch(text):
        _explain_trace(text, checkpoint, pool, store, as_json)
        return
    from xrouter_lg.cli.newcomer.reading import RequestReader
    from xrouter_lg.errors import ConfigurationError

    if not text.strip():
        raise ConfigurationError(f"the prompt is {text!r}; give a text to explain")
    # A shell may hand on bytes that are no text; no terminal could show them again.
    asked = text.encode("utf-8", "replace").decode()
    found = RequestReader(checkpoint, _pool(pool)).read(asked, cost_weight)
    if as_json:
        print_json(asdict(found))
        return
    _print(reading_parts(found))


def _explain_trace(
    text: str, checkpoint: Path, pool: Path | None, store: str, as_json: bool
) -> None:
    from xrouter_lg.cli.newcomer.past import past_requests
    from xrouter_lg.cli.traces import one_trace
    from xrouter_lg.tracing.store.trace_store import TraceStore

    with TraceStore(store, create=False) as opened:
        trace_id = one_trace(opened, text, store)
        given = None if checkpoint == _PRODUCTION and not _is_there(checkpoint) else checkpoint
        found = past_requests(opened, trace_id, given, _pool(pool))
    if as_json:
        print_json({"trace_id": trace_id, "requests": [past.to_dict() for past in found]})
        return
    if not found:
        echo(f"{trace_id}: no request was routed in this trace.")
    for past in found:
        _print(_past_parts(past))


def _pool(file: Path | None) -> Any:
    from xrouter_lg.pool.pool import ModelPool

    return None if file is None else ModelPool.from_yaml(file, reload=False)


def _is_there(checkpoint: Path) -> bool:
    return checkpoint.is_dir() or checkpoint.with_suffix(".json").is_file()


def _print(parts: Iterator[RenderableType]) -> None:
    out = console()
    for part in parts:
        out.print(part)


def reading_parts(found: ReadRequest) -> Iterator[RenderableType]:
    """What a checkpoint makes of a request, for a terminal."""
    facts = {"checkpoint": f"{found.checkpoint} {found.version}"}
    if found.kind is not None:
        facts |= _kind_facts(found.kind)
    facts["prompt"] = f"{found.prompt_tokens} tokens"
    facts["cost weight"] = f"{found.cost_weight:g}"
    yield facts_table(facts)
    yield _card_table(found)
    facts = {"taken": f"{found.taken}: {found.reason}"}
    if len(found.cards) > 1:
        behind = next(card for card in found.cards if card.name != found.taken)
        lead = next(card.utility for card in found.cards if card.name == found.taken)
        facts["next"] = f"{behind.name}, behind by {lead - behind.utility:.3f} of utility"
        facts["what would change it"] = _changes(found)
    if found.removed:
        facts["removed"] = "  ".join(f"{card}: {why}" for card, why in found.removed.items())
    yield facts_table(facts)


def _kind_facts(kind: ReadKind) -> dict[str, str]:
    others = ", ".join(f"{name} ({share:.0%})" for name, share in kind.others.items())
    facts = {"kind": f"{kind.name} ({kind.probability:.0%})" + (f"; or {others}" if others else "")}
    if kind.telling:
        facts["told by"] = ", ".join(kind.telling)
    unknown = ", ".join(kind.unknown[:_SHOWN_WORDS])
    more = len(kind.unknown) - _SHOWN_WORDS
    facts["words and pairs known"] = f"{kind.known:.0%}" + (
        f"; not {unknown}" + (f" and {more} more" if more > 0 else "") if unknown else ""
    )
    facts["reading counts"] = f"{kind.trusted:.0%}" + (
        "" if kind.trusted >= 1 else "; the rest is each card's overall mean"
    )
    return facts


def _card_table(found: ReadRequest) -> RenderableType:
    from rich.markup import escape

    table = plain_table("card")
    for name in ("expected score", "counted on", "expected USD", "utility", "best with chance"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("")
    for card in found.cards:
        table.add_row(
            escape(card.name),
            "-" if card.expected_score is None else f"{card.expected_score:.3f}",
            f"{card.counted_on:.3f}",
            f"{card.expected_usd:.6f}",
            f"{card.utility:+.3f}",
            "-" if card.chance_of_best is None else f"{card.chance_of_best:.0%}",
            " ".join(
                word
                for word, said in (
                    ("taken", card.name == found.taken),
                    ("(not trained on)", not card.trained),
                )
                if said
            ),
        )
    return table


def _changes(found: ReadRequest) -> str:
    ways = []
    if found.cheaper is not None:
        ways.append(f"cost weight above {found.cheaper.cost_weight:.3g}: {found.cheaper.card}")
    if found.dearer is not None:
        ways.append(f"below {found.dearer.cost_weight:.3g}: {found.dearer.card}")
    return "; ".join(ways) or "no cost weight"


def _past_parts(past: PastRequest) -> Iterator[RenderableType]:
    yield from route_details(past.row)
    if past.expected:
        yield facts_table(
            {
                "counted on then": "  ".join(
                    f"{card} {score:.3f}" for card, score in past.expected.items()
                )
            }
        )
    if past.at_price:
        usd = "  ".join(f"{card} {cost:.6f}" for card, cost in past.at_price.items())
        yield facts_table({"these tokens elsewhere, USD": usd})
    if past.reading is None:
        yield facts_table({"the others": past.unread or ""})
        return
    yield ""
    yield "By the checkpoint that decided:" if past.same else "By the checkpoint of today:"
    yield from reading_parts(past.reading)
