"""One night on one page, and the same as JSON beside it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xrouter_lg.figures.bootstrap import Figure
from xrouter_lg.files import write_bytes
from xrouter_lg.judge.report.templates import templates
from xrouter_lg.learn.run import Learned
from xrouter_lg.value.overlap import by_family

WIDTH, BAR, LEFT = 640.0, 22.0, 210.0
"""Of a picture: its width, the height of a line, and where the lines begin."""


@dataclass(frozen=True)
class Interval:
    """A line of a plot of intervals: places along the picture."""

    name: str
    y: float
    low: float
    high: float
    at: float
    said: str


def write_report(night: Learned, page: Path) -> None:
    """Write the page and the JSON of the same name; each whole or not at all."""
    text = json.dumps(night.to_json(), indent=1, ensure_ascii=False, allow_nan=False, default=str)
    write_bytes(page.with_suffix(".json"), f"{text}\n".encode(errors="replace"))
    write_bytes(page, render(night).encode(errors="replace"))


def render(night: Learned) -> str:
    """The page's HTML; everything from traces and names is escaped."""
    environment = templates(Path(__file__).parent)
    gains, zero = gain_lines(night)
    return environment.get_template("page.html.jinja").render(
        night=night,
        said=None if night.built is None else night.built.to_dict(),
        gains=gains,
        zero=zero,
        width=WIDTH,
        height=BAR * (len(gains) + 1),
        history=_history(night),
        grid=None if night.concluded is None else by_family(night.concluded.overlap),
    )


def gain_lines(night: Learned) -> tuple[list[Interval], float]:
    """The estimated gains as lines, and where zero is."""
    concluded = night.concluded
    rows: list[tuple[str, Figure]] = []
    if concluded is not None:
        for name, gain in (
            ("routing over the log", concluded.over_log),
            (f"routing over {concluded.fixed}", concluded.over_fixed),
            (f"{concluded.fixed} over the log", concluded.fixed_over_log),
        ):
            if gain is not None:
                rows.append((f"{name}: model", gain.model))
                if gain.doubly_robust is not None:
                    rows.append((f"{name}: doubly robust", gain.doubly_robust))
    if not rows:
        return [], 0.0
    ends = [0.0, *(x for _, f in rows for x in (f.low, f.high, f.value) if x is not None)]
    low, high = min(ends), max(ends)
    room = max(high - low, 1e-9)

    def place(value: float | None) -> float:
        return LEFT + (WIDTH - LEFT - 10) * ((value or 0.0) - low) / room

    lines = [
        Interval(
            name,
            BAR * (number + 0.7),
            place(figure.low),
            place(figure.high),
            place(figure.value),
            f"{figure.value or 0.0:+.4f} [{figure.low or 0.0:+.4f}, {figure.high or 0.0:+.4f}]",
        )
        for number, (name, figure) in enumerate(rows)
    ]
    return lines, place(0.0)


def _history(night: Learned) -> list[dict[str, Any]]:
    return [
        {"at": one.at, "done": one.done, "scored": one.scored, "gain": one.gain}
        for one in night.nights[-30:]
    ]
