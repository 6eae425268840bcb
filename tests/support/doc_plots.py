"""Pictures of docs/reward.md, from the code that they explain.

python -m tests.support.doc_plots     draws them anew
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from training.data.reward import Reward

IMAGES = Path(__file__).parents[2] / "docs" / "images"
CARDS = {"small": (0.62, 0.08), "medium": (0.76, 0.35), "large": (0.84, 1.0)}
"""Expected score, and expected cost as a share of c_ref."""


def dial() -> Figure:
    """Each card's utility is a line over λ, and the highest one is chosen."""
    weight = np.linspace(0, 0.6, 200)
    figure, axes = _one("cost weight λ", "expected utility")
    lines = {name: score - weight * cost for name, (score, cost) in CARDS.items()}
    for name, line in lines.items():
        axes.plot(weight, line, label=name)
    best = np.max(list(lines.values()), axis=0)
    axes.plot(weight, best, color="black", linewidth=4, alpha=0.25, label="chosen")
    axes.legend(frameon=False)
    return figure


def reward() -> Figure:
    """Both rewards over cost, at λ = 0.5."""
    cost = np.linspace(0, 2.5, 200)
    figure, axes = _one("cost / c_ref", "reward at λ = 0.5")
    for kind, style in (("linear", "-"), ("success_gated", "--")):
        paid = Reward(c_ref_usd=1.0, kind=kind)
        for score, colour in ((1.0, "tab:green"), (0.0, "tab:red")):
            label = f"{kind}, {'right' if score else 'wrong'}"
            line = [paid.one(score, float(usd), 0.5) for usd in cost]
            axes.plot(cost, line, style, color=colour, label=label)
    axes.legend(frameon=False)
    return figure


def caution() -> Figure:
    """A normal posterior of one card's mean score, as thumbs that are 0 or 1 come in."""
    said = np.random.default_rng(4).random(120) < 0.75
    prior_mean, prior_error, thumb_error = 0.6, 0.2, 0.5
    seen = np.arange(len(said) + 1)
    known = 1 / prior_error**2 + seen / thumb_error**2
    total = np.concatenate([[0.0], np.cumsum(said)])
    mean = (prior_mean / prior_error**2 + total / thumb_error**2) / known
    error = known**-0.5
    figure, axes = _one("thumbs on a kind of request", "score")
    axes.plot(seen, mean, label="expected")
    axes.fill_between(seen, mean - 2 * error, mean + 2 * error, alpha=0.2)
    axes.plot(seen, mean - 2 * error, "--", color="tab:red", label="counted on")
    axes.axhline(0.7, color="grey", linewidth=1, label="a card that is well known")
    axes.legend(frameon=False, loc="lower right")
    return figure


def _one(x: str, y: str):  # type: ignore[no-untyped-def]
    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlabel=x, ylabel=y)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def draw(folder: Path) -> list[Path]:
    """Write every picture, byte by byte the same each time."""
    mpl.rcParams["svg.hashsalt"] = "xrouter_lg"
    drawn = []
    for make in (dial, reward, caution):
        drawn.append(folder / f"{make.__name__}.svg")
        make().savefig(drawn[-1], metadata={"Date": None, "Creator": None})
    return drawn


if __name__ == "__main__":
    draw(IMAGES)
