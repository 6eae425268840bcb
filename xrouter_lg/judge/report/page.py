"""The report as one self-contained page: no script, no font, no file beside it is needed."""

from __future__ import annotations

import json
from pathlib import Path

from xrouter_lg.figures.bootstrap import Figure, signed
from xrouter_lg.files import write_bytes
from xrouter_lg.judge.report import charts
from xrouter_lg.judge.report.templates import templates
from xrouter_lg.judge.run import Judged

_LONGEST_PROMPT = 1200


def write_report(judged: Judged, page: Path) -> Path:
    """Write the page and, beside it, the JSON of the same name; each whole or not at all. The
    JSON's path."""
    beside = page.with_suffix(".json")
    page.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(judged.to_json(), indent=1, ensure_ascii=False, allow_nan=False)
    write_bytes(beside, f"{text}\n".encode(errors="replace"))
    write_bytes(page, render(judged).encode(errors="replace"))
    return beside


def render(judged: Judged) -> str:
    """The page's HTML. Everything from tables, prompts and names is escaped."""
    environment = templates(Path(__file__).parent)
    environment.filters.update(
        usd=usd, percent=percent, signed=signed, interval=interval, plain=plain, clip=clip
    )
    pools = [
        {
            "one": pool,
            "all": pool.parts["all"],
            "frontier": charts.frontier(pool),
            "dials": charts.dial(pool),
            "gains": charts.gains(pool),
            "reliability": None
            if pool.parts["all"].calibration is None
            else charts.reliability(pool.parts["all"].calibration),
            "colours": charts.colours(pool.models),
        }
        for pool in judged.pools
    ]
    data = judged.to_json()
    return environment.get_template("page.html.jinja").render(
        judged=judged, data=data, pools=pools, manifest=judged.manifest
    )


def usd(value: float | None) -> str:
    """Four significant digits without exponents."""
    if value is None:
        return "unknown"
    if value == 0:
        return "$0"
    if abs(value) >= 100:
        return f"${value:,.0f}"
    if abs(value) >= 1:
        return f"${value:,.2f}"
    digits = 3
    while abs(value) < 10.0 ** -(digits - 2) and digits < 12:
        digits += 1
    return f"${value:.{digits}f}"


def percent(value: float | None, digits: int = 0) -> str:
    return "never" if value is None else f"{100 * value:.{digits}f} %"


def interval(value: Figure | None) -> str:
    """A gain with its interval."""
    return "not measured" if value is None else str(value)


def plain(value: Figure | None) -> str:
    """A share with its interval, unbounded ends in words."""
    if value is None:
        return "not measured"
    if value.value is None:
        return "never reached"
    high = "never" if value.high is None else percent(value.high)
    low = "never" if value.low is None else percent(value.low)
    return f"{percent(value.value)} [{low}, {high}]"


def clip(text: str) -> str:
    """The head and the tail of a long prompt."""
    if len(text) <= _LONGEST_PROMPT:
        return text
    half = _LONGEST_PROMPT // 2
    return f"{text[:half]}\n… {len(text) - 2 * half:,} characters left out …\n{text[-half:]}"
