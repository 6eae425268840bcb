"""The gate's verdict: figures, and the same in words a user can act on."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import ceil
from statistics import NormalDist
from typing import Any

from xrouter_lg.figures.bootstrap import Figure
from xrouter_lg.figures.dial import Dial

GATE_PROMPTS = 100
"""Below this a percentile interval of scores is not to be trusted."""
MIN_SETTINGS = 8
"""Cost weights at which a dial must be shown to work."""


@dataclass(frozen=True)
class Gain:
    over: str
    """best fixed, static mix, cost-matched shuffle, kNN or production."""
    name: str | None
    """Which model or policy that is."""
    gain: Figure
    """Utility of the policy − utility of the comparator."""
    utility: float
    """Of the comparator, in score units."""


@dataclass(frozen=True)
class SliceResult:
    name: str
    prompts: int
    gain: Figure | None
    """Utility over the alternative, simultaneous one-sided 95 % bounds; None when too small."""
    tolerance: float
    status: str
    """safe, unclear, too small: pass. harmed, not shown safe: block."""
    detectable_loss: float | None
    """The true loss this slice would have revealed four times out of five."""

    @property
    def blocks(self) -> bool:
        return self.status in ("harmed", "not shown safe")


@dataclass(frozen=True)
class GateVerdict:
    promote: bool
    policy: str
    use: str
    """The policy itself when promoted, otherwise what to use instead."""
    reasons: tuple[str, ...]
    """What decided, one sentence each; blockers first."""
    notes: tuple[str, ...]
    """What a careful reader should know although it did not decide."""
    cost_weight: float
    prompts: int
    utility: float
    gains: tuple[Gain, ...]
    slices: tuple[SliceResult, ...]
    dial: Dial

    @property
    def exit_code(self) -> int:
        """0 promote, 1 not: for CI."""
        return 0 if self.promote else 1

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"exit_code": self.exit_code}


@dataclass(frozen=True)
class GateMeasures:
    """What the gate measured, before anything is concluded."""

    policy: str
    cost_weight: float
    prompts: int
    utility: float
    gains: tuple[Gain, ...]
    slices: tuple[SliceResult, ...]
    dial: Dial
    instead: str
    """The simplest alternative that no other alternative beats."""
    level: float
    """Of the gains' intervals."""


def conclude(seen: GateMeasures) -> GateVerdict:
    """Promote when nothing blocks; say what blocks, what was beaten and what stays unclear."""
    blockers: list[str] = []
    if seen.prompts < GATE_PROMPTS:
        blockers.append(f"Only {seen.prompts} test prompts: at least {GATE_PROMPTS} are needed.")
    blockers += [_shortfall(row, seen) for row in seen.gains if not row.gain.above()]
    blockers += [_slice(row, seen.instead) for row in seen.slices if row.blocks]
    blockers += _dial_faults(seen.dial)
    passed = [
        f"Beats {_full_name(row)} by {row.gain} utility." for row in seen.gains if row.gain.above()
    ]
    notes = [
        _slice(row, seen.instead) for row in seen.slices if row.status in ("unclear", "too small")
    ]
    if all(row.over != "cost-matched shuffle" for row in seen.gains):
        notes.append("It calls several models per prompt, so its choices could not be shuffled.")
    return GateVerdict(
        promote=not blockers,
        policy=seen.policy,
        use=seen.instead if blockers else seen.policy,
        reasons=(*blockers, *passed),
        notes=tuple(notes),
        cost_weight=seen.cost_weight,
        prompts=seen.prompts,
        utility=seen.utility,
        gains=seen.gains,
        slices=seen.slices,
        dial=seen.dial,
    )


def _full_name(row: Gain) -> str:
    if row.over == "static mix":
        return f"every static mix (hardest: {row.name})"
    return row.over if row.name in (None, row.over) else f"{row.over} ({row.name})"


def _shortfall(row: Gain, seen: GateMeasures) -> str:
    value, low, high = row.gain.value or 0.0, row.gain.low or 0.0, row.gain.high or 0.0
    if high < 0:
        return f"Loses to {_full_name(row)}: {row.gain} utility."
    text = f"Does not beat {_full_name(row)} beyond noise: {row.gain} utility."
    if value > 0:
        z = NormalDist().inv_cdf((1 + seen.level) / 2)
        error = (high - low) / (2 * z)
        factor = ((z + NormalDist().inv_cdf(0.8)) * error / value) ** 2
        # Beyond that the difference is too small to be worth anyone's labels.
        if 1 < factor <= 100:
            text += (
                f" If the difference is real, about {ceil(factor * seen.prompts):,} test prompts "
                "would show it four times out of five."
            )
    return text


def _slice(row: SliceResult, instead: str) -> str:
    if row.gain is None:
        return f"Slice {row.name!r} has {row.prompts} prompts, too few to be guarded."
    power = f"; {row.prompts} prompts would have shown a loss of {row.detectable_loss:.3f}"
    words = {
        "harmed": "loses more than its tolerance",
        "not shown safe": "is not shown to lose less than its tolerance",
        "unclear": "may lose more than its tolerance",
    }[row.status]
    return f"Slice {row.name!r} {words} of {row.tolerance:g} against {instead}: {row.gain}{power}."


def _dial_faults(dial: Dial) -> list[str]:
    faults = []
    if dial.settings < MIN_SETTINGS:
        faults.append(
            f"Its dial was run at {dial.settings} cost weights: at least {MIN_SETTINGS} are needed."
        )
    if not dial.moves:
        faults.append("Its dial is inert: the highest cost weight saves nothing over the lowest.")
    faults += [
        f"Its dial is not monotone: {rise.what} rises by {rise.by:.3g} from cost weight "
        f"{rise.from_weight:g} to {rise.to_weight:g}."
        for rise in dial.rises[:1]
    ]
    return faults
