"""How training went, as PNG files in the run folder."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

import numpy as np

from xrouter_lg.files import whole

Log = Mapping[str, float]
_P = ParamSpec("_P")
_log = logging.getLogger(__name__)


def _optional(draw: Callable[_P, None]) -> Callable[_P, None]:
    """A picture is no reason to lose a trained model: what goes wrong is a warning."""

    @wraps(draw)
    def safely(*args: _P.args, **kwargs: _P.kwargs) -> None:
        try:
            draw(*args, **kwargs)
        except Exception as error:
            _log.warning("no plot was drawn: %s: %s", type(error).__name__, error)

    return safely


@_optional
def plot_warm_start(log: Sequence[Log], validation: Sequence[Log], path: Path) -> None:
    """Loss and learning rate per step; validation log loss and utility."""
    figure, axes = _panels(["loss (nats per card)", "validation"])
    _line(axes[0], log, "loss", smooth=True)
    _line(axes[1], validation, "log_loss", marker="o")
    right = axes[1].twinx()
    _line(right, validation, "utility", marker="s", colour="tab:orange")
    for axis, where in ((axes[1], "upper left"), (right, "upper right")):
        if axis.lines:
            axis.legend(loc=where)
    _write(figure, path)


@_optional
def plot_grpo(
    log: Sequence[Log], validation: Sequence[Log], path: Path, *, names: Sequence[str]
) -> None:
    """Reward, cost, shares per card, entropy and legal actions per step; validation utility."""
    figure, axes = _panels(["reward", "USD per request", "share per card", "entropy, legal"])
    _line(axes[0], log, "reward", smooth=True)
    _line(axes[0], validation, "utility", marker="o", colour="tab:orange")
    _line(axes[1], log, "cost_usd", smooth=True)
    for name in names:
        _line(axes[2], log, f"share/{name}", label=name, smooth=True)
    _line(axes[3], log, "entropy", smooth=True)
    _line(axes[3], log, "legal", colour="tab:green")
    for axis in axes:
        if axis.lines:
            axis.legend(fontsize="x-small")
    _write(figure, path)


@_optional
def plot_ablation(results: Sequence[Mapping[str, Any]], names: Sequence[str], path: Path) -> None:
    """Share per model and mean cost by reward scaling and cost weight.

    ``results`` have ``scale_rewards``, ``cost_weight``, ``share`` {name: share}, ``cost_usd`` and
    ``score``.
    """
    modes = list(dict.fromkeys(entry["scale_rewards"] for entry in results))
    figure, axes = _panels([*modes, "mean cost (USD)", "mean score"])
    for axis, mode in zip(axes, modes, strict=False):
        own = [entry for entry in results if entry["scale_rewards"] == mode]
        bottom = np.zeros(len(own))
        places = np.arange(len(own))
        for name in names:
            height = np.array([entry["share"][name] for entry in own])
            axis.bar(places, height, bottom=bottom, label=name)
            bottom = bottom + height
        axis.set_xticks(places, [f"λ = {entry['cost_weight']:g}" for entry in own])
        axis.set_ylim(0, 1)
    axes[0].legend(fontsize="x-small")
    for axis, field in zip(axes[len(modes) :], ("cost_usd", "score"), strict=True):
        for mode in modes:
            own = [entry for entry in results if entry["scale_rewards"] == mode]
            weights = [entry["cost_weight"] for entry in own]
            axis.plot(weights, [entry[field] for entry in own], marker="o", label=mode)
        axis.set_xscale("log")
        axis.set_xlabel("λ")
        axis.legend(fontsize="x-small")
    _write(figure, path)


@_optional
def plot_feedback(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """What each arm adds to the warm start on the logs, with its interval, by kind of logs.

    ``rows`` have ``rule``, ``arm`` and, but for the logs themselves, ``over_logs`` (mean, low,
    high) in score points.
    """
    rules = list(dict.fromkeys(row["rule"] for row in rows))
    figure, axes = _panels([f"{rule}: utility over the logs" for rule in rules])
    for axis, rule in zip(axes, rules, strict=True):
        own = [row for row in rows if row["rule"] == rule and "over_logs" in row][::-1]
        mean, low, high = (np.array([row["over_logs"][i] for row in own]) for i in range(3))
        places = np.arange(len(own))
        axis.errorbar(mean, places, xerr=[mean - low, high - mean], fmt="o", capsize=3)
        axis.set_yticks(places, [row["arm"] for row in own])
        axis.axvline(0.0, color="grey", linewidth=0.8)
    _write(figure, path)


def _panels(titles: Sequence[str]) -> tuple[Any, list[Any]]:
    # Not pyplot: that keeps a global state and may look for a screen.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(titles), 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = [figure.add_subplot(1, len(titles), place + 1) for place in range(len(titles))]
    for axis, title in zip(axes, titles, strict=True):
        axis.set_title(title, fontsize="medium")
    return figure, axes


def _line(
    axis: Any,
    log: Sequence[Log],
    field: str,
    *,
    label: str | None = None,
    smooth: bool = False,
    marker: str = "",
    colour: str | None = None,
) -> None:
    own = [(entry["step"], entry[field]) for entry in log if field in entry]
    if not own:
        return
    steps, values = (np.array(side) for side in zip(*own, strict=True))
    if smooth and len(values) > 20:
        values = np.convolve(values, np.ones(10) / 10, mode="valid")
        steps = steps[9:]
    axis.plot(steps, values, marker=marker, label=label or field, color=colour)
    axis.set_xlabel("step", fontsize="small")


def _write(figure: Any, path: Path) -> None:
    with whole(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
