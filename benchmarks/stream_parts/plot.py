"""The stream as a picture: how far each learner is above or below the best fixed card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.stream_parts.events import Event
from xrouter_lg.arrays import Floats
from xrouter_lg.files import whole


def draw(
    path: Path, above_ST: Mapping[str, Floats], events: Sequence[Event], *, below: float
) -> bool:
    """A PNG of cumulative utility over the best fixed card's, mean and range over the seeds;
    False where matplotlib is not installed. ``above_ST`` is per request; what falls far below
    ``below`` is cut."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure as Picture
    except ImportError:
        return False
    picture = Picture(figsize=(8, 4.8), dpi=120, layout="constrained")
    FigureCanvasAgg(picture)
    axes = picture.add_subplot()
    for number, (name, one) in enumerate(above_ST.items()):
        total = np.cumsum(one, axis=1)
        at = np.unique(np.linspace(0, total.shape[1] - 1, 500).astype(int))
        colour = f"C{number % 10}"
        style = "-" if number < 10 else "--"
        axes.plot(at, total.mean(0)[at], style, color=colour, linewidth=1.4, label=name)
        if len(total) > 1:
            axes.fill_between(
                at, total.min(0)[at], total.max(0)[at], color=colour, alpha=0.08, linewidth=0
            )
    for event in events:
        axes.axvline(event.at, color="grey", linewidth=0.8, linestyle=":")
        axes.annotate(
            f" {event.kind}", (event.at, 1), xycoords=("data", "axes fraction"), va="top",
            fontsize="small",
        )  # fmt: skip
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_ylim(bottom=below)
    axes.set_xlabel("requests")
    axes.set_ylabel("cumulative utility over the best fixed card")
    axes.legend(fontsize="x-small", loc="lower left")
    axes.grid(alpha=0.3)
    with whole(path) as temporary:
        picture.savefig(temporary, format="png")
    return True
