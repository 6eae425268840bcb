"""What commands print on a terminal: plain tables, traces as tables and trees, progress."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from xrouter_lg.json_text import printable

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.progress import Progress, ProgressColumn
    from rich.status import Status
    from rich.table import Table
    from rich.tree import Tree

    from xrouter_lg.route_record import RouteRecord
    from xrouter_lg.tracing.store.query import RouteRow, RunNode

_ID_SHOWN = 18
"""Characters of an id in a table: its time to a fraction of a millisecond."""


def console(*, stderr: bool = False, fitted: bool = True) -> Console:
    """A console on which no text of others can steer the terminal; ``fitted`` for tables that a
    pipe must not cut."""
    from rich.console import Console, ConsoleOptions
    from rich.segment import Segment

    class Printing(Console):
        def render(
            self, renderable: RenderableType, options: ConsoleOptions | None = None
        ) -> Iterator[Segment]:
            for part in super().render(renderable, options):
                text = part.text if part.control else printable(part.text)
                yield Segment(text, part.style, part.control)

    if not fitted:
        return Printing(stderr=stderr)
    # Piped output has no width of its own; eighty columns would cut the ids.
    return Printing(width=None if sys.stdout.isatty() else 160, highlight=False, stderr=stderr)


def plain_table(*columns: str, header: bool = True) -> Table:
    """A table without lines."""
    from rich.table import Table

    return Table(*columns, box=None, header_style="bold", pad_edge=False, show_header=header)


def bars(
    *columns: str | ProgressColumn, transient: bool = True, everywhere: bool = False
) -> Progress:
    """Progress on stderr, for what is printed on stdout is the result; on a terminal, unless it
    is wanted ``everywhere``. What is ``transient`` is gone in the end."""
    from rich.progress import Progress

    shown = console(stderr=True, fitted=False)
    disable = not (everywhere or shown.is_terminal)
    return Progress(*columns, console=shown, transient=transient, disable=disable)


def facts_table(facts: Mapping[str, str]) -> Table:
    """Names in bold, each with its value; brackets in values are no markup."""
    from rich.text import Text

    table = plain_table(header=False)
    for name, value in facts.items():
        table.add_row(f"[bold]{name}[/bold]", Text(value))
    return table


@contextmanager
def counting(what: str) -> Iterator[Callable[[int], None]]:
    """A line that counts up while something long goes on."""
    from rich.progress import SpinnerColumn, TimeElapsedColumn

    with bars(SpinnerColumn(), "{task.completed} " + what, TimeElapsedColumn()) as bar:
        task = bar.add_task(what, total=None)
        yield lambda count: bar.advance(task, count)


def busy(what: str) -> Status:
    """Says on stderr that something takes a while, until it ends."""
    return console(stderr=True, fitted=False).status(what)


def route_table(rows: list[RouteRow]) -> RenderableType:
    from rich.markup import escape

    table = plain_table()
    table.add_column("time (UTC)", no_wrap=True)
    table.add_column("trace", no_wrap=True)
    for name in ("route", "policy", "why"):
        table.add_column(name, overflow="fold")
    for name in ("tokens", "USD", "ms", "fallbacks"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("thread", overflow="fold")
    for row in rows:
        record = row.record
        cells = (
            f"{row.created_at.astimezone(UTC):%Y-%m-%d %H:%M:%S}",
            row.trace_id[:_ID_SHOWN],
            (record.route or "none") + (" (cut)" if record.truncated else ""),
            f"{record.policy} {record.policy_version}".strip(),
            record.reason,
            f"{row.input_tokens}+{row.output_tokens}",
            _usd(record.cost_usd),
            f"{record.latency_s * 1000:.0f}",
            str(len(record.fallbacks)),
            record.thread_id or "",
        )
        table.add_row(*(escape(cell) for cell in cells))
    return table


def _shadows(record: RouteRecord) -> list[dict[str, Any]]:
    return [turn["shadow"] for turn in record.decisions if turn.get("shadow")]


def _shadow_line(shadow: dict[str, Any]) -> str:
    said = f"{shadow['policy']} {shadow['policy_version']} {shadow['status']}"
    route = f" {shadow['route']}" if shadow.get("route") else ""
    return f"{said}{route} ({_usd(shadow['cost_usd'])} USD)"


def _usd(text: str | None) -> str:
    """Four significant digits; what is unknown is not zero."""
    if text is None:
        return "unknown"
    value = Decimal(text)
    return f"{value:.6f}" if value >= Decimal("0.001") or not value else f"{value:.3g}"


def run_tree(root: RunNode) -> Tree:
    from rich.tree import Tree

    tree = Tree(_run_line(root.run))

    def grow(branch: Tree, node: RunNode) -> None:
        for child in node.children:
            grow(branch.add(_run_line(child.run)), child)

    grow(tree, root)
    return tree


def _run_line(run: dict[str, Any]) -> str:
    from rich.markup import escape

    took = "not finished"
    if run["end_time"]:
        start, end = (datetime.fromisoformat(run[name]) for name in ("start_time", "end_time"))
        took = f"{(end - start).total_seconds() * 1000:.1f} ms"
    tokens = f", {run['total_tokens']} tokens" if run["total_tokens"] else ""
    line = f"{escape(run['name'])}  [dim]{run['run_type']}, {took}{tokens}[/dim]"
    if run["error"]:
        line += f"  [red]{escape(run['error'].splitlines()[0][:120])}[/red]"
    return line


def route_details(row: RouteRow) -> Iterator[RenderableType]:
    from rich.markup import escape

    record = row.record
    scores = sorted(record.scores.items(), key=lambda item: -item[1])
    facts = {
        "route": record.route or "none",
        "why": record.reason,
        "policy": f"{record.policy} {record.policy_version}".strip(),
        "scores": "  ".join(f"{card} {score:.3f}" for card, score in scores),
        "propensity": "unknown" if record.propensity is None else f"{record.propensity:.4f}",
        "cost weight": f"{record.cost_weight:g}",
        "USD": f"{_usd(record.cost_usd)} (router {_usd(record.router_cost_usd)}, "
        f"workers {_usd(record.worker_cost_usd)})",
        "latency": f"{record.latency_s * 1000:.0f} ms in {record.turns} turn(s)",
        "arm": "" if record.arm is None else f"{record.arm['arm']} of a canary",
        "shadow": "  ".join(map(_shadow_line, _shadows(record))),
        "removed": "  ".join(f"{card}: {why}" for card, why in record.removed.items()),
        "thread": record.thread_id or "",
    }
    yield facts_table({name: value for name, value in facts.items() if value})
    charges = plain_table()
    for name in ("charge", "card", "model", "attempt", "in", "out", "USD", "price", "ms", "error"):
        charges.add_column(name, overflow="fold")
    for charge in record.charges:
        usage = charge.get("usage") or {}
        cells = (
            charge.get("kind"),
            charge.get("card"),
            charge.get("served_model") or charge.get("model"),
            charge.get("attempt"),
            usage.get("input_tokens", "?"),
            usage.get("output_tokens", "?"),
            _usd(charge.get("cost_usd")),
            charge.get("price_source") or "",
            f"{(charge.get('latency_s') or 0) * 1000:.0f}",
            charge.get("error") or "",
        )
        charges.add_row(*(escape(str(cell)) for cell in cells))
    yield charges
