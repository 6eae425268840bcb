"""Charts as shapes in the units of a picture 400 wide: small enough to be read on a phone.

Nothing here writes markup; the template draws these shapes, and escapes every text in them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from xrouter_lg.figures.bootstrap import Figure
from xrouter_lg.figures.quality import Calibration
from xrouter_lg.judge.gate.assess import Assessment, Band
from xrouter_lg.judge.gate.compare import Row

WIDTH, HEIGHT = 400.0, 300.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 44.0, 10.0, 10.0, 40.0

COLOURS = (
    "#1f77b4", "#d9822b", "#2a9d5c", "#c0392b", "#7d5ba6", "#8c6d46",
    "#d16ba5", "#6b7280", "#a3a847", "#22a6b3", "#34495e", "#f1a7b5",
)  # fmt: skip


@dataclass(frozen=True)
class Tick:
    at: float
    label: str


@dataclass(frozen=True)
class Polyline:
    points: str
    colour: str
    width: float = 1.5
    dash: str = ""
    name: str = ""


@dataclass(frozen=True)
class Dot:
    x: float
    y: float
    colour: str
    label: str = ""
    title: str = ""
    anchor: str = "start"


@dataclass(frozen=True)
class Chart:
    """Axes, lines, dots and bands; coordinates in the picture's own units."""

    title: str
    x_name: str
    y_name: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    lines: tuple[Polyline, ...] = ()
    dots: tuple[Dot, ...] = ()
    band: str = ""
    """Points of a filled area."""
    width: float = WIDTH
    height: float = HEIGHT
    left: float = _LEFT
    right: float = WIDTH - _RIGHT
    top: float = _TOP
    bottom: float = HEIGHT - _BOTTOM


@dataclass(frozen=True)
class Bar:
    """One row of the gains: intervals on prompts like those seen, and on kinds never seen."""

    name: str
    y: float
    seen: tuple[float, float, float] | None
    """x of low, value, high."""
    unseen: tuple[float, float, float] | None
    strong: bool = False
    label: str = ""


@dataclass(frozen=True)
class Forest:
    rows: tuple[Bar, ...]
    ticks: tuple[Tick, ...]
    zero: float
    height: float
    width: float = WIDTH
    left: float = 146.0
    right: float = WIDTH - 12.0


@dataclass(frozen=True)
class _Scale:
    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        a, b, v = self.low, self.high, min(max(value, self.low), self.high)
        if self.log:
            a, b, v = math.log(a), math.log(b), math.log(v)
        share = 0.5 if b == a else (v - a) / (b - a)
        return round(self.start + share * (self.end - self.start), 1)


def frontier(pool: Assessment) -> Chart:
    """Mean score against mean cost per 1,000 requests: the policy's hull and interval, the zero
    router, the fixed models, and the strongest baselines."""
    band = pool.band
    costs = [usd for _, usd, _ in pool.fixed if usd > 0] + [u for u in band.usd if u > 0]
    x = _Scale(min(costs) * 0.8, max(costs) * 1.25, _LEFT, WIDTH - _RIGHT, log=True)
    cheap = pool.parts["all"].cheapest
    best = pool.parts["all"].best_fixed
    named = {name: score for name, _, score in pool.fixed}
    # From the cheapest model's score up: what lies far below only squeezes the rest.
    scores = [*band.high, *(s for s in named.values() if s >= named[cheap]), *band.zero]
    low = min([named[cheap], *(s for s in band.score)])
    y = _Scale(low - 0.02, max(scores) + 0.02, HEIGHT - _BOTTOM, _TOP)
    upper = [(x(u), y(s)) for u, s in zip(band.usd, band.high, strict=True)]
    lower = [(x(u), y(s)) for u, s in zip(band.usd, band.low, strict=True)]
    lines = [
        Polyline(_points([(x(u), y(s)) for u, s in _hull(band, band.zero)]), "#555", 1.3, "5 3",
             "zero router: best mixtures of fixed models"),
        *_baseline_lines(pool, x, y),
        Polyline(_points([(x(u), y(s)) for u, s in _hull(band, band.score)]), COLOURS[0], 2.4, "",
             "this checkpoint, 95 % interval shaded"),
    ]  # fmt: skip
    dots = [
        Dot(
            x(usd),
            y(score),
            "#c0392b" if name == best else "#333",
            str(number),
            f"{number}. {name}: ${usd * 1000:.3g} per 1,000, score {score:.3f}",
            "end" if x(usd) > WIDTH - 40 else "start",
        )
        for number, (name, usd, score) in enumerate(pool.fixed, 1)
        if score >= y.low
    ]
    return Chart(
        "Score against cost",
        "USD per 1,000 requests (log)",
        "mean score",
        _log_ticks(x, 1000.0),
        _linear_ticks(y),
        tuple(lines),
        tuple(dots),
        _points(upper + lower[::-1]),
    )


def dial(pool: Assessment) -> tuple[Chart, Chart]:
    """Mean cost (as a share of the best fixed model's) and mean score at every cost weight."""
    points = pool.parts["all"].metrics.points
    best = pool.parts["all"].best_fixed
    fixed_usd = next(usd for name, usd, _ in pool.fixed if name == best)
    fixed_score = next(score for name, _, score in pool.fixed if name == best)
    weights = [w for w, _, _ in points if w > 0]
    # λ = 0 has no place on a log axis: it stands one step left of the smallest.
    step = weights[1] / weights[0] if len(weights) > 1 else 10.0
    low = (weights[0] if weights else 1.0) / step
    x = _Scale(low, max(weights, default=1.0) * 1.1, _LEFT, WIDTH - _RIGHT, log=True)
    ticks = (Tick(x(low), "0"), *_log_ticks(x, 1.0)[1:])
    charts = []
    for title, values, level, name in (
        ("cost", [usd / fixed_usd for _, usd, _ in points], 1.0, "share of the best fixed cost"),
        ("score", [score for _, _, score in points], fixed_score, "mean score"),
    ):
        span = [*values, level]
        pad = 0.06 * (max(span) - min(span) or 1.0)
        y = _Scale(min(span) - pad, max(span) + pad, 180.0 - _BOTTOM, _TOP)
        places = [(x(max(w, low)), y(v)) for (w, _, _), v in zip(points, values, strict=True)]
        charts.append(
            Chart(
                f"The dial: {title}",
                "cost weight λ (log)",
                name,
                ticks,
                _linear_ticks(y, 4),
                (
                    Polyline(
                        _points([(x.start, y(level)), (x.end, y(level))]), "#c0392b", 1.2, "4 3"
                    ),
                    Polyline(_points(places), COLOURS[0], 2.0),
                ),
                tuple(Dot(px, py, COLOURS[0]) for px, py in places),
                height=180.0,
                bottom=180.0 - _BOTTOM,
            )
        )
    return charts[0], charts[1]


def reliability(found: Calibration) -> Chart:
    """Observed against expected score of the chosen models, bins by size."""
    x = _Scale(0.0, 1.0, _LEFT, WIDTH - _RIGHT)
    y = _Scale(0.0, 1.0, HEIGHT - _BOTTOM, _TOP)
    ticks = [Tick(x(v / 5), f"{v / 5:.1f}") for v in range(6)]
    return Chart(
        "Calibration",
        "expected score",
        "observed score",
        tuple(ticks),
        tuple(Tick(y(v / 5), f"{v / 5:.1f}") for v in range(6)),
        (
            Polyline(_points([(x(0), y(0)), (x(1), y(1))]), "#555", 1.2, "5 3"),
            Polyline(_points([(x(a), y(b)) for a, b, _ in found.bins]), COLOURS[0], 2.0),
        ),
        tuple(
            Dot(x(a), y(b), COLOURS[0], title=f"{n} choices: expected {a:.2f}, observed {b:.2f}")
            for a, b, n in found.bins
        ),
    )


def gains(pool: Assessment) -> Forest:
    """Gains over the zero router with intervals, on both splits; fixed models are left to the
    table: they lie far to the left."""
    models = set(pool.models)
    rows = [
        row for row in (pool.comparison.rows if pool.comparison else ()) if row.name not in models
    ]
    wanted = [row for row in rows if row.name not in ("random", "oracle")]
    every: list[tuple[Row, bool]] = [(pool.policy_row, True)]
    if pool.shuffle_row is not None:
        every.append((pool.shuffle_row, False))
    every += [(row, False) for row in wanted]
    ends = [
        end
        for row, _ in every
        for one in (row.gain, row.unseen_gain)
        if one is not None
        for end in (one.low, one.high)
        if end is not None
    ]
    # What lies further to the left is off by so much that its exact place tells nothing.
    low, high = max(min([*ends, 0.0]), -0.15), max([*ends, 0.0])
    pad = 0.03 * (high - low)
    x = _Scale(low - pad, high + pad, Forest.left, Forest.right)
    pitch = 26.0
    bars = tuple(
        Bar(
            row.name,
            14.0 + pitch * number,
            _ends(row.gain, x),
            _ends(row.unseen_gain, x),
            strong,
            _signed(row.gain),
        )
        for number, (row, strong) in enumerate(every)
    )
    return Forest(bars, _linear_ticks(x, 5, signed=True), x(0.0), 14.0 + pitch * len(every) + 22.0)


def colours(models: Sequence[str]) -> dict[str, str]:
    """A colour per model, the same all over the page."""
    return {name: COLOURS[number % len(COLOURS)] for number, name in enumerate(models)}


def _baseline_lines(pool: Assessment, x: _Scale, y: _Scale) -> list[Polyline]:
    wanted = {"kNN": COLOURS[1], "predicted family": COLOURS[2], "told the label": COLOURS[4]}
    found = []
    for row in pool.comparison.rows if pool.comparison else ():
        if row.name in wanted:
            inside = [(u, s) for u, s in sorted(row.points) if u >= x.low and s >= y.low]
            places = _points([(x(u), y(s)) for u, s in inside])
            found.append(Polyline(places, wanted[row.name], 1.2, "", row.name))
    return found


def _hull(band: Band, heights: Sequence[float]) -> list[tuple[float, float]]:
    return list(zip(band.usd, heights, strict=True))


def _ends(value: Figure | None, x: _Scale) -> tuple[float, float, float] | None:
    if value is None or value.value is None:
        return None
    low = x.low if value.low is None else value.low
    high = x.high if value.high is None else value.high
    return x(low), x(value.value), x(high)


def _signed(value: Figure) -> str:
    return "" if value.value is None else f"{value.value:+.4f}"


def _points(places: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{px:g},{py:g}" for px, py in places)


def _linear_ticks(scale: _Scale, wanted: int = 5, *, signed: bool = False) -> tuple[Tick, ...]:
    span = scale.high - scale.low
    raw = span / wanted
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw)
    digits = max(0, -math.floor(math.log10(step)) + (1 if step / power == 2.5 else 0))
    first = math.ceil(scale.low / step)
    values = [n * step for n in range(first, math.floor(scale.high / step) + 1)]
    sign = "+" if signed else ""
    return tuple(
        Tick(scale(v), "0" if abs(v) < step / 2 else f"{v:{sign}.{digits}f}") for v in values
    )


def _log_ticks(scale: _Scale, factor: float) -> tuple[Tick, ...]:
    """Powers of ten, and 2 and 5 where there is room; `factor` turns values into labels."""
    low, high = math.log10(scale.low * factor), math.log10(scale.high * factor)
    steps = (1.0, 2.0, 5.0) if high - low < 2.5 else (1.0,)
    values = [m * 10.0**e for e in range(math.floor(low), math.ceil(high) + 1) for m in steps]
    return tuple(
        Tick(scale(v / factor), f"{v:g}") for v in values if scale.low <= v / factor <= scale.high
    )
