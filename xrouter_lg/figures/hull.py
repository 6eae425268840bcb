"""The non-decreasing convex hull of (USD, score) points: exact, for a batch of point sets at once.

A router's points can be mixed (toss a coin between two settings) and money can be left unspent,
so what it can reach is everything under the least concave, non-decreasing function over its
points: RouterBench's non-decreasing convex hull (Hu et al. 2024, arXiv 2403.12031, §3). With that
function R,

    AIQ = 1 / (hi − lo) · ∫ R(c) dc  over  lo ≤ c ≤ hi.

RouterBench integrates from the cheapest to the dearest point in sight, so a dearer model added to
the pool changes everybody's figure. Here lo is the mean cost of always taking the cheapest model
and hi that of the best fixed model, both named on the training half and paid on the test half.

Outside its points a curve is continued by what its owner could really do:
- right of the dearest point the height stays (spend less than allowed);
- left of the cheapest point the height is that of a coin toss between that point and answering
  nothing for nothing, the straight line to (0, 0). The origin only continues the curve: it is
  not a point of the hull, or it would lift curves that begin with a poor cheap model;
- when hi ≤ lo (the best model is the cheapest, or got cheaper on the test half), AIQ is the limit
  of a vanishing range at the upper end: R(hi).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from xrouter_lg.arrays import Floats, Ints


@dataclass(frozen=True)
class Hulls:
    """B hulls, each padded to K vertices by repeating its last one."""

    x: Floats
    """[B, K] USD, rising."""
    y: Floats
    """[B, K] score, rising."""
    count: Ints
    """[B] vertices before the padding."""

    def height(self, at: Floats) -> Floats:
        """[B] scores reachable at [B] costs, continued as the module says."""
        rows = np.arange(len(self.x))
        # The last vertex at or left of `at`; −1 when all lie to the right.
        left = (self.x <= at[:, None]).sum(1) - 1
        a = np.clip(left, 0, self.x.shape[1] - 1)
        b = np.minimum(a + 1, self.x.shape[1] - 1)
        x0, y0, x1, y1 = self.x[rows, a], self.y[rows, a], self.x[rows, b], self.y[rows, b]
        inside = y0 + (y1 - y0) * _ratio(at - x0, x1 - x0)
        origin = self.y[:, 0] * _ratio(at, self.x[:, 0])
        height: Floats = np.where(left < 0, origin, np.where(at >= self.x[:, -1], y0, inside))
        return height

    def aiq(self, lo: Floats, hi: Floats) -> Floats:
        """[B] mean heights over [lo, hi], each [B] in USD."""
        zero = np.zeros((len(self.x), 1))
        far = np.maximum(hi, self.x[:, -1])[:, None]
        # From the origin to the first vertex, along the hull, and level to the right end.
        xs = np.concatenate([zero, self.x, far], axis=1)
        starts, ends = xs[:, :-1], xs[:, 1:]
        a = np.clip(starts, lo[:, None], hi[:, None])
        b = np.clip(ends, lo[:, None], hi[:, None])
        ys = np.concatenate([zero, self.y, self.y[:, -1:]], axis=1)
        slope = _ratio(ys[:, 1:] - ys[:, :-1], ends - starts)
        middle = ys[:, :-1] + slope * ((a + b) / 2 - starts)
        area = ((b - a) * middle).sum(1)
        wide = hi > lo
        mean: Floats = np.where(wide, area / np.where(wide, hi - lo, 1.0), self.height(hi))
        return mean

    def cost_of(self, quality: Floats) -> Floats:
        """[B] smallest cost on the hull whose height reaches [B] qualities; inf when none does.

        Only vertices and their mixtures count, not the continuation to the origin.
        """
        rows = np.arange(len(self.x))
        # A point that equals the target up to rounding reaches it.
        reached = self.y >= quality[:, None] - 1e-12
        first = reached.argmax(1)
        before = np.maximum(first - 1, 0)
        x0, y0 = self.x[rows, before], self.y[rows, before]
        x1, y1 = self.x[rows, first], self.y[rows, first]
        share = np.clip(_ratio(quality - y0, y1 - y0), 0.0, 1.0)
        cost = np.where(first == 0, self.x[:, 0], x0 + (x1 - x0) * share)
        found: Floats = np.where(reached.any(1), cost, np.inf)
        return found


def _ratio(a: Floats, b: Floats) -> Floats:
    """a / b, and 0 where b is 0: the pieces without length are never looked at."""
    return np.divide(a, b, out=np.zeros(np.broadcast(a, b).shape), where=b != 0)


def hulls(x: Floats, y: Floats) -> Hulls:
    """The hulls of B sets of K points, [B, K] USD and [B, K] scores.

    Andrew's monotone chain, the batch advancing point by point: at most 2·K vector steps.
    """
    if x.ndim != 2 or x.shape != y.shape or x.shape[1] == 0:
        raise ValueError(f"expected two [B, K] arrays with K ≥ 1, got {x.shape} and {y.shape}")
    order = np.lexsort((y, x))
    x, y = np.take_along_axis(x, order, 1), np.take_along_axis(y, order, 1)
    batch, width = x.shape
    rows = np.arange(batch)
    hx, hy = np.zeros_like(x), np.zeros_like(y)
    top = np.zeros(batch, dtype=np.int64)
    for k in range(width):
        px, py = x[:, k], y[:, k]
        while True:
            ax, ay = hx[rows, np.maximum(top - 2, 0)], hy[rows, np.maximum(top - 2, 0)]
            bx, by = hx[rows, np.maximum(top - 1, 0)], hy[rows, np.maximum(top - 1, 0)]
            # b goes when it lies on or under the line from a to the new point, or right below it.
            under = (bx - ax) * (py - ay) >= (by - ay) * (px - ax)
            drop = ((top >= 2) & under) | ((top == 1) & (bx == px))
            if not drop.any():
                break
            top = top - drop
        # Dearer and no better adds nothing to a non-decreasing hull.
        add = (top == 0) | (py > hy[rows, np.maximum(top - 1, 0)])
        hx[rows[add], top[add]], hy[rows[add], top[add]] = px[add], py[add]
        top = top + add
    last = np.minimum(np.arange(width)[None, :], top[:, None] - 1)
    return Hulls(np.take_along_axis(hx, last, 1), np.take_along_axis(hy, last, 1), top)


def hull_of(x: Floats, y: Floats) -> Floats:
    """One hull's vertices, [V, 2] of (USD, score), for [K] points."""
    one = hulls(x[None, :], y[None, :])
    return np.stack([one.x[0], one.y[0]], axis=1)[: int(one.count[0])]
