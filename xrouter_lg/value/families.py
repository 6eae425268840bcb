"""Families of requests that nobody has labelled, found from what they say.

k-means over the requests' words and tool counts. Requests without any outcome count as much as
others: how they fall into families is no matter of scores.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.cluster import KMeans, MiniBatchKMeans

from xrouter_lg.arrays import Floats, Ints
from xrouter_lg.value.features import Features

_LEAST = 3
"""Requests of a family that was known before, for it to be looked for again."""
_LARGE = 6_000
"""Requests above which centres are found in batches."""


def find_families(features: Features, count: int, start_F_P: Floats | None = None) -> Ints:
    """[N] family of each request, 0 to at most ``count`` - 1, each with a request.

    ``start_F_P`` are points of the plane to begin at: the centres of families that are known
    already keep their numbers. The rest begins where requests lie that are near none.
    """
    plane = features.plane_N_P
    count = min(count, len(np.unique(plane, axis=0)))
    if count < 2:
        return np.zeros(len(features), dtype=np.int64)
    begin = None if start_F_P is None else _grown(plane, start_F_P[:count], count)
    kind = MiniBatchKMeans if len(features) > _LARGE else KMeans
    options = {"batch_size": 2048} if len(features) > _LARGE else {}
    model = kind(
        count,
        init="k-means++" if begin is None else begin,
        n_init=3 if begin is None else 1,
        random_state=0,
        **options,
    )
    found = np.asarray(model.fit_predict(plane), dtype=np.int64)
    return np.unique(found, return_inverse=True)[1].astype(np.int64)


def centres_of(plane_N_P: Floats, family_N: Ints, families: int) -> tuple[Floats, Ints]:
    """[F', P] mean point of each family that has at least three of the requests, and [F'] which
    families those are."""
    count = np.bincount(family_N, minlength=families)
    kept = np.flatnonzero(count >= _LEAST).astype(np.int64)
    if not len(kept):
        return np.zeros((0, plane_N_P.shape[1])), kept
    return np.stack([plane_N_P[family_N == family].mean(0) for family in kept]), kept


def numbered(names: Sequence[str]) -> tuple[tuple[str, ...], Ints]:
    """Sorted names of given families, and [N] the number of each request's."""
    known, number = np.unique(np.array(names, dtype=np.str_), return_inverse=True)
    return tuple(known.tolist()), number.astype(np.int64)


def _grown(plane: Floats, start: Floats, count: int) -> Floats:
    """The start, and the points farthest from it and from each other, up to ``count``."""
    centres = start
    gap = ((plane[:, None, :] - start[None]) ** 2).sum(2).min(1)
    while len(centres) < count:
        far = plane[int(gap.argmax())]
        centres = np.vstack([centres, far])
        gap = np.minimum(gap, ((plane - far) ** 2).sum(1))
    return centres
