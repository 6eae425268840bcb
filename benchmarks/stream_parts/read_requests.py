"""Families as found at one time, and into which of them requests fall that came in since."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from xrouter_lg.arrays import Floats, Ints
from xrouter_lg.value.features import Features
from xrouter_lg.value.grouping import Partition, partitions_of
from xrouter_lg.value.model import Reader

_REMEMBERED = 20_000
"""Requests whose families are kept: the same ones come again."""


class ReadRequests:
    """Partitions of requests. Before any are found all requests are of one family."""

    def __init__(self, features: Features | None = None, scored: int = 0) -> None:
        """``scored`` is the number of requests with an outcome: it says how finely requests can be
        told apart."""
        self.features = features
        found = () if features is None else partitions_of(features, scored)
        self.partitions = tuple(own for own in found if own.max() > 0)
        self.sizes = [int(own.max()) + 1 for own in self.partitions] or [1]
        self._readers: list[Reader] = []
        self._place = lru_cache(_REMEMBERED)(self._shares)
        if features is None:
            return
        plane = features.plane_N_P
        for own, size in zip(self.partitions, self.sizes, strict=False):
            self._readers.append(Reader.fit(plane, Partition(("",) * size, own)))

    def shares(self, text: str) -> tuple[Floats, ...]:
        """[F] of each partition: how likely the request is of each family."""
        return self._place(text) if self._readers else (np.ones(1),)

    def families(self, texts: Sequence[str]) -> list[Ints]:
        """[N] by partition, the family of each request. The first of ``texts`` are those that the
        families were found in, in their order."""
        if not self._readers or self.features is None:
            return [np.zeros(len(texts), dtype=np.int64)]
        later = [self.shares(text) for text in texts[len(self.features) :]]
        return [
            np.concatenate([own, np.array([s[b].argmax() for s in later], dtype=np.int64)])
            for b, own in enumerate(self.partitions)
        ]

    def _shares(self, text: str) -> tuple[Floats, ...]:
        assert self.features is not None
        point = self.features.points([text])
        return tuple(reader.shares(point)[0] for reader in self._readers)
