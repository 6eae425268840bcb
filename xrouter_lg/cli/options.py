"""Options that several commands have, and how their texts are read.

A group of options is a dataclass; a command that takes one has its options (see :func:`spread`).
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

if TYPE_CHECKING:
    from xrouter_lg.tracing.store.query import RouteFilters

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_SIZES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}

STORE = "xrouter_traces.db"

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Store = Annotated[
    str, typer.Option(envvar="XROUTER_TRACES", help="Path or URL of the trace store.")
]
Since = Annotated[
    str | None, typer.Option(help="Not older than, e.g. 30m, 12h, 7d, 2w or 2026-11-01.")
]
Until = Annotated[str | None, typer.Option(help="Older than, in the same forms.")]
Project = Annotated[str | None, typer.Option(help="Recorded under this project.")]
ScoreKey = Annotated[
    str | None,
    typer.Option(
        help="Feedback of this key, in [0, 1], scores the answers; left out: the commonest."
    ),
]
PricePool = Annotated[
    Path | None, typer.Option(help="Pool file: prices of cards that were never called.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be deleted.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")]
Verifiers = Annotated[
    Path | None, typer.Option(help="YAML list of verifiers that score the answers.")
]
Rename = Annotated[
    list[str] | None,
    typer.Option(
        metavar="TABLE=CARD", help="A model of the table that is this card; may be given again."
    ),
]


@dataclass(frozen=True)
class Requests:
    """Which routed requests."""

    since: Since = None
    until: Until = None
    route: Annotated[str | None, typer.Option(help="Answered by this card.")] = None
    policy: Annotated[str | None, typer.Option(help="Decided by this policy.")] = None
    thread: Annotated[str | None, typer.Option(help="Of this conversation.")] = None
    user: Annotated[str | None, typer.Option(help="Of this user (user_id in the metadata).")] = None
    tenant: Annotated[str | None, typer.Option(help="Of this tenant.")] = None
    project: Project = None
    tag: Annotated[str | None, typer.Option(help="With this tag on one of its runs.")] = None
    model: Annotated[str | None, typer.Option(help="With a call to this model.")] = None
    feedback: Annotated[str | None, typer.Option(help="With feedback of this key.")] = None
    min_score: Annotated[
        float | None, typer.Option(help="With feedback of at least this score.")
    ] = None
    max_score: Annotated[
        float | None, typer.Option(help="With feedback of at most this score.")
    ] = None
    fallbacks: Annotated[bool, typer.Option("--fallbacks", help="With a failed attempt.")] = False
    errors: Annotated[bool, typer.Option("--errors", help="Unanswered, or with a failed run.")] = (
        False
    )
    min_cost: Annotated[float | None, typer.Option(help="Cost at least this many USD.")] = None

    def filters(self, limit: int | None) -> RouteFilters:
        """Only what was asked for: an export without filters has runs that hold no route, too."""
        names = {"thread": "thread_id", "feedback": "feedback_key", "min_cost": "min_cost_usd"}
        given = {
            **dataclasses.asdict(self),
            "since": parse_when(self.since, "--since"),
            "until": parse_when(self.until, "--until"),
            "limit": limit,
        }
        chosen: RouteFilters = {}
        for name, value in given.items():
            if value is not None and value is not False:
                chosen[names.get(name, name)] = value  # type: ignore[literal-required]
        return chosen


def spread(function: Callable[..., None]) -> Callable[..., None]:
    """A function whose parameters that are dataclasses have become these classes' fields: Typer
    reads options off a signature."""
    hints = get_type_hints(function, include_extras=True)
    groups: dict[str, tuple[type, tuple[str, ...]]] = {}
    shown: list[inspect.Parameter] = []
    for parameter in inspect.signature(function).parameters.values():
        hint = hints[parameter.name]
        if not dataclasses.is_dataclass(hint):
            shown.append(parameter.replace(annotation=hint, kind=parameter.KEYWORD_ONLY))
            continue
        assert isinstance(hint, type)
        fields, types = dataclasses.fields(hint), get_type_hints(hint, include_extras=True)
        groups[parameter.name] = hint, tuple(field.name for field in fields)
        for field in fields:
            default = parameter.empty if field.default is dataclasses.MISSING else field.default
            shown.append(
                inspect.Parameter(
                    field.name,
                    parameter.KEYWORD_ONLY,
                    default=default,
                    annotation=types[field.name],
                )
            )

    @functools.wraps(function)
    def gathered(**given: Any) -> None:
        for name, (group, fields) in groups.items():
            given[name] = group(**{field: given.pop(field) for field in fields})
        function(**given)

    gathered.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    gathered.__annotations__ = {one.name: one.annotation for one in shown}
    return gathered


def parse_when(text: str | None, option: str) -> datetime | None:
    """A moment from an age (``7d``) or an ISO date or time; UTC unless it says otherwise."""
    return None if text is None else moment(text, option)


def moment(text: str, option: str) -> datetime:
    """A moment, as :func:`parse_when` reads it."""
    if match := re.fullmatch(r"(\d+)([smhdw])", text):
        try:
            return datetime.now(UTC) - timedelta(**{_UNITS[match[2]]: int(match[1])})
        except OverflowError:
            pass
    else:
        try:
            when = datetime.fromisoformat(text)
        except ValueError:
            pass
        else:
            return when if when.tzinfo else when.replace(tzinfo=UTC)
    raise typer.BadParameter(
        f"{text!r} is no time. Use an age such as 30m, 12h, 7d or 2w, or a date like 2026-11-01.",
        param_hint=option,
    )


def parse_size(text: str | None, option: str) -> int | None:
    """Bytes from a size such as ``500MB`` or ``2GB``."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)b?", text.strip().lower())
    if match is None or float(match[1]) <= 0:
        raise typer.BadParameter(f"{text!r} is no size. Use e.g. 500MB or 2GB.", param_hint=option)
    return int(float(match[1]) * _SIZES[match[2]])


def parse_pairs(values: Sequence[str] | None, option: str, form: str) -> dict[str, str]:
    """``LEFT=RIGHT``, given again and again; the last ``=`` parts the two."""
    found = {}
    for value in values or ():
        left, equals, right = (part.strip() for part in value.rpartition("="))
        if not equals or not left or not right:
            raise typer.BadParameter(f"{option} is {value!r}, which is no {form}")
        found[left] = right
    return found


def parse_listed(values: Sequence[str] | None) -> tuple[str, ...] | None:
    """``--models a,b --models c``; None where nothing is given."""
    if not values:
        return None
    return tuple(part.strip() for value in values for part in value.split(",") if part.strip())
