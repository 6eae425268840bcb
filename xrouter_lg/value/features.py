"""What is seen of requests: their words, how their tools fit, and how they are shaped.

Requests are all that is needed: nothing here knows an outcome or a label.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from xrouter_lg.arrays import Floats, Ints
from xrouter_lg.checkpoints.family_head import BUCKETS, bucket_counts
from xrouter_lg.checkpoints.tool_fit import (
    STEM_BUCKETS,
    Weight,
    stem_bucket,
    stem_weight,
    stems,
    tool_features,
)

_SEEN_IN = 2
"""Different requests that a word must occur in to count as known: once may be a typing error."""
_SCALE = 0.3
"""Length of one standard deviation of a tool feature, or of the request's length; all words of a
request together have 1."""
REACH = 4.0 * _SCALE
"""Where either is clipped: at four standard deviations."""
_SHAPE_QUANTILES = (0.8, 0.95)
"""Of the requests' distances to the nearest family: where trust begins to fall, and where nothing
is left of it. Found by leaving families out; it does not hurt on families seen."""
_LEAST_SPREAD = 0.16
"""Least spread of a feature in a family, as a share of its spread over all requests."""
_FOREIGN_WIDTH = 0.2
"""Known share over which trust falls from one to nothing, below what is usual in training."""
_DIMENSIONS = 100
"""Of the plane in which requests are compared (latent semantic analysis of their words)."""

_MOST_SEEN = 2_000
"""Requests that a head keeps, to tell what is like one of them."""

Arrays = dict[str, npt.NDArray[np.generic]]


@dataclass(frozen=True)
class Features:
    """N requests by what they say."""

    prompts: tuple[str, ...]
    counts_N_B: csr_matrix
    """1 + log(count) of each bucket of words and word pairs."""
    known_K: Ints
    """Buckets that occur in two requests or more, rising."""

    @classmethod
    def of(cls, prompts: Sequence[str]) -> Features:
        counts = counted(prompts)
        return cls(tuple(prompts), counts, np.flatnonzero(_seen_in(prompts, counts) >= _SEEN_IN))

    def __len__(self) -> int:
        return len(self.prompts)

    @cached_property
    def idf_K(self) -> Floats:
        seen_in = np.asarray((self.counts_N_B[:, self.known_K] > 0).sum(axis=0)).ravel()
        idf: Floats = np.log((1 + len(self)) / (1 + seen_in)) + 1.0
        return idf

    @cached_property
    def words_N_K(self) -> csr_matrix:
        """TF-IDF over known buckets, rows of length one."""
        rows = self.counts_N_B[:, self.known_K].multiply(self.idf_K[None, :]).tocsr()
        length = np.sqrt(np.asarray(rows.multiply(rows).sum(axis=1))).ravel()
        return csr_matrix(rows.multiply(1.0 / np.maximum(length, 1e-9)[:, None]))

    @cached_property
    def tools(self) -> ToolFeatures | None:
        """How each request's tools fit it; None where no request defines tools."""
        return ToolFeatures.of(self.prompts)

    @cached_property
    def basis_K_D(self) -> Floats:
        """Directions in which the requests' words differ most (truncated singular vectors)."""
        from sklearn.decomposition import TruncatedSVD

        most = min(_DIMENSIONS, self.words_N_K.shape[0] - 1, self.words_N_K.shape[1] - 1)
        if most < 1:
            return np.zeros((self.words_N_K.shape[1], 0))
        with np.errstate(invalid="ignore"):  # requests that are all the same vary in nothing
            plane = TruncatedSVD(most, random_state=0).fit(self.words_N_K)
        basis: Floats = np.ascontiguousarray(plane.components_.T)
        return basis

    @cached_property
    def length(self) -> tuple[float, float]:
        """Mean of the logarithm of the requests' characters, and what counts as one unit of it.

        Rules that people write go by length, and so does difficulty: families must tell it.
        """
        log_N = np.log1p([len(prompt) for prompt in self.prompts])
        return float(log_N.mean()), max(float(log_N.std()), 1e-6) / _SCALE

    @cached_property
    def plane_N_P(self) -> Floats:
        """Every request as a point: its words along `basis_K_D`, its length, then how its tools
        fit."""
        mean, unit = self.length
        log_N = np.log1p([len(prompt) for prompt in self.prompts])
        length = np.clip((log_N - mean) / unit, -REACH, REACH)[:, None]
        parts = [np.asarray(self.words_N_K @ self.basis_K_D), length]
        if self.tools is not None:
            parts.append(self.tools.scaled_N_T)
        return np.hstack(parts)

    @cached_property
    def seen_E_D(self) -> Floats | None:
        """The words of different requests along `basis_K_D`, rows of length one, some of them by
        chance where there are very many; None where there are none, or no directions."""
        rows_N_D = np.asarray(self.words_N_K @ self.basis_K_D)
        length_N = np.sqrt((rows_N_D**2).sum(1))
        if not (length_N > 0).any():
            return None
        rows = (rows_N_D[length_N > 0] / length_N[length_N > 0, None]).round(3)
        rows = np.unique(rows, axis=0)
        chosen = np.random.default_rng(0).permutation(len(rows))[:_MOST_SEEN]
        found: Floats = rows[np.sort(chosen)]
        return found

    def points(self, prompts: Sequence[str]) -> Floats:
        """[N, P] where other requests lie in the plane of these."""
        rows = counted(prompts)[:, self.known_K].multiply(self.idf_K[None, :]).tocsr()
        length = np.sqrt(np.asarray(rows.multiply(rows).sum(axis=1))).ravel()
        words = np.asarray(rows @ self.basis_K_D) / np.maximum(length, 1e-9)[:, None]
        mean, unit = self.length
        log_N = np.log1p([len(prompt) for prompt in prompts])
        parts = [words, np.clip((log_N - mean) / unit, -REACH, REACH)[:, None]]
        if self.tools is not None:
            parts.append(self.tools.points(prompts))
        return np.hstack(parts)

    def known_shares(self) -> list[float]:
        """Of each request, the share of words that would be known if it were not among these."""
        raw = self.counts_N_B
        seen_in = _seen_in(self.prompts, raw)
        shares = []
        for row in range(raw.shape[0]):
            start, stop = raw.indptr[row], raw.indptr[row + 1]
            value = raw.data[start:stop]
            others = seen_in[raw.indices[start:stop]] - 1
            shares.append(float(value[others >= _SEEN_IN].sum() / max(value.sum(), 1e-9)))
        return shares

    def known_range(self) -> tuple[float, float]:
        """Known shares between which trust rises from 0 to 1.

        A request's share is taken as if it had not been learned from: its own words count as known
        only if another one has them (twice). The upper end is what 19 of 20 requests pass.
        """
        high = float(np.quantile(self.known_shares(), 0.05))
        return max(high - _FOREIGN_WIDTH, 0.0), max(high, 1e-6)


@dataclass(frozen=True)
class ToolFeatures:
    """The 26 counts of ``tool_fit.py``, and how they are scaled."""

    raw_N_T: Floats
    mean_T: Floats
    unit_T: Floats
    stems_S: Ints
    rarity_S: npt.NDArray[np.float32]

    @classmethod
    def of(cls, prompts: Sequence[str]) -> ToolFeatures | None:
        seen_in = np.zeros(STEM_BUCKETS, dtype=np.int64)
        for prompt in prompts:
            seen_in[list({stem_bucket(stem) for stem in stems(prompt)})] += 1
        at = np.flatnonzero(seen_in)
        rarity_S = np.log((1 + len(prompts)) / (1 + seen_in[at])).astype(np.float32)
        weight = stem_weight(at.tolist(), rarity_S.tolist(), len(prompts))
        raw = np.array([tool_features(prompt, weight) for prompt in prompts], dtype=np.float64)
        if not raw.any():
            return None
        unit = np.maximum(raw.std(0), 1e-6) / _SCALE
        return cls(raw, raw.mean(0), unit, at, rarity_S)

    @cached_property
    def scaled_N_T(self) -> Floats:
        scaled: Floats = np.clip((self.raw_N_T - self.mean_T) / self.unit_T, -REACH, REACH)
        return scaled

    def points(self, prompts: Sequence[str]) -> Floats:
        """[N, T] scaled features of other requests."""
        raw = np.array([tool_features(prompt, self._weight) for prompt in prompts], np.float64)
        scaled: Floats = np.clip((raw - self.mean_T) / self.unit_T, -REACH, REACH)
        return scaled

    @cached_property
    def _weight(self) -> Weight:
        return stem_weight(self.stems_S.tolist(), self.rarity_S.tolist(), len(self.raw_N_T))

    def arrays(self) -> Arrays:
        """What a head keeps of them."""
        return {
            "tool_mean_T": self.mean_T.astype(np.float32),
            "tool_unit_T": self.unit_T.astype(np.float32),
            "stems_S": self.stems_S.astype(np.int32),
            "stem_weight_S": self.rarity_S,
            "prompts": np.array([len(self.raw_N_T)], dtype=np.int64),
        }

    def shape_arrays(self, prompts: Sequence[str], family_N: Ints) -> Arrays:
        """Mean and unit per family of what its requests look like, and the usual distances."""
        length_N = np.log1p([len(prompt) for prompt in prompts])
        shape_N_S = np.concatenate([self.raw_N_T, length_N[:, None]], axis=1)
        groups = [family_N == family for family in range(int(family_N.max()) + 1)]
        mean_F_S = np.stack([shape_N_S[rows].mean(0) for rows in groups])
        # A feature that never varies in a small family may well vary in its next request.
        least_S = (_LEAST_SPREAD * shape_N_S.std(0) + 1e-6) ** 2
        unit_F_S = np.sqrt([shape_N_S[rows].var(0) + least_S for rows in groups])
        gap_N_F = np.stack(
            [
                (((shape_N_S - mean) / unit) ** 2).mean(1)
                for mean, unit in zip(mean_F_S, unit_F_S, strict=True)
            ],
            axis=1,
        )
        low, high = np.quantile(gap_N_F.min(1), _SHAPE_QUANTILES)
        return {
            "shape_mean_F_S": mean_F_S.astype(np.float32),
            "shape_unit_F_S": unit_F_S.astype(np.float32),
            "shape_range": np.array([low, max(high, low + 1e-6)], dtype=np.float32),
        }


def _seen_in(prompts: Sequence[str], counts_N_B: csr_matrix) -> Ints:
    """[B] how many different requests have each bucket: one that comes again says nothing new."""
    first = sorted({prompt: row for row, prompt in reversed(list(enumerate(prompts)))}.values())
    found: Ints = np.asarray((counts_N_B[first] > 0).sum(axis=0)).ravel()
    return found


def counted(prompts: Sequence[str]) -> csr_matrix:
    """[N, BUCKETS] of 1 + log(count)."""
    starts, columns, values = [0], [], []
    for prompt in prompts:
        counts = bucket_counts(prompt)
        columns += list(counts)
        values += [1.0 + math.log(n) for n in counts.values()]
        starts.append(len(columns))
    return csr_matrix((values, columns, starts), shape=(len(prompts), BUCKETS))
