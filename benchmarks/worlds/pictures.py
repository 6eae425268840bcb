"""Curves over the size of a log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from xrouter_lg.files import whole


def draw_shares(path: Path, shares: Mapping[tuple[int, int], Sequence[float]]) -> bool:
    """A PNG of shares by cards and requests, each split a dot, their mean a line; False where
    matplotlib is not installed."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure as Picture
    except ImportError:
        return False
    picture = Picture(figsize=(6.2, 4.2), dpi=120, layout="constrained")
    FigureCanvasAgg(picture)
    axes = picture.add_subplot()
    for number, cards in enumerate(dict.fromkeys(cards for cards, _ in shares)):
        own = {size: np.array(values) for (of, size), values in shares.items() if of == cards}
        colour = f"C{number}"
        axes.plot(list(own), [v.mean() for v in own.values()], "o-", color=colour,
                  label=f"{cards} cards")  # fmt: skip
        for size, values in own.items():
            axes.plot([size] * len(values), values, ".", color=colour, alpha=0.4)
    sizes = list(dict.fromkeys(size for _, size in shares))
    axes.axhline(0.0, color="grey", linewidth=0.8, linestyle=":")
    axes.set(
        xscale="log", xlabel="requests in the log", ylabel="share of the full-information gain"
    )
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    with whole(path) as temporary:
        picture.savefig(temporary, format="png")
    return True
