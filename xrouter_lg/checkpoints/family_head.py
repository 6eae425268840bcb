"""Which family is this request of? A cheap reading of it, alone or beside a language model's.

A request is a point in a plane: its hashed words and word pairs along the directions in which
training requests differ most, and how the tools that it defines fit it (``tool_fit.py``). A
multinomial logistic regression over that point gives P(family | request); what each card scores
and costs in each family is known from training:

    quality_m = sum_f P(f) · quality_fm,     cost_m = sum_f P(f) · cost_fm.

Families are the labels of requests where there are some, or were found from the requests
themselves. There may be several partitions of the same requests, coarse and fine, each with
probabilities of its own; what they expect is averaged: coarse families are known well and say
little, fine ones the other way round, and the mean of their expectations routes better than any
one of them (docs/quality.md).

It also says how far a request lies from what was trained on: the share of its words that were seen
in training, and its shape. Far from it, readings are shrunk towards each card's overall mean.

Words are counted as (1 + log count) · idf, at unit length; a word's bucket is its CRC-32 modulo
2^16, so no vocabulary travels with a checkpoint, and text can't be read out of it; but whoever has
a text can tell whether words like its own were among up to 2,000 requests that are kept as points.
"""

from __future__ import annotations

import itertools
import math
import re
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xrouter_lg.checkpoints.arrays import read_arrays
from xrouter_lg.checkpoints.manifest import CheckpointError
from xrouter_lg.checkpoints.tool_fit import FEATURES, Weight, stem_weight, tool_features
from xrouter_lg.extras import need

HEAD_FILE = "family_head.safetensors"

_TOOL_AXES = {
    "tool_mean_T": "T",
    "tool_unit_T": "T",
    "stems_S": "#S",
    "stem_weight_S": "S",
    "prompts": "#1",
    "shape_mean_F_S": "NU",
    "shape_unit_F_S": "NU",
    "shape_range": "2",
}
_DOUBT_AXES = {"mean_F_M": "FM", "root_F_M_M": "FMM"}
_SEEN_AXES = {"seen_E_D": "ED"}
_AXES = {
    **_TOOL_AXES,
    **_DOUBT_AXES,
    **_SEEN_AXES,
    "buckets_K": "#K",
    "idf_K": "K",
    "basis_K_D": "KD",
    "weight_F_P": "FP",
    "bias_F": "F",
    "block_B": "#B",
    "share_F": "F",
    "quality_F_M": "FM",
    "cost_ratio_F_M": "FM",
    "length": "2",
    "reach": "1",
}
"""Axes of the arrays that reading needs; the tools' come all together, and so do those of what it
does not know."""
BUCKETS = 1 << 16

_PURPOSE = "a trained checkpoint"
_WORD = re.compile(r"(?u)\b\w\w+\b")
_LONGEST = 40_000
"""Characters read of a request, half of them from its end: a pasted book must not cost seconds."""


@dataclass(frozen=True, slots=True)
class FamilyReading:
    """What the head expects of one request."""

    quality: dict[str, float]
    """What each card is counted on to score."""
    cost_ratio: dict[str, float]
    """Expected cost over the card's mean cost."""
    known: float
    """Share of the request's words that training has seen, 0 to 1."""
    family: str
    """The likeliest family of the first partition."""
    near: float = 1.0
    """1 where the request's tools and length are usual for some family seen in training, falling
    to 0 outside the range of all of them."""
    shares: tuple[float, ...] = ()
    """P(family) as of :meth:`FamilyHead.probabilities`."""


class FamilyHead:
    """A head as it lies in a checkpoint. Arrays: F families, K known buckets, D directions, T tool
    features (none, or those of ``tool_fit.py``), M cards.

    ``buckets_K`` rising; ``idf_K``; ``basis_K_D``; ``weight_F_P`` over the D + 1 + T coordinates
    and ``bias_F`` of the regression; ``block_B``, how many families each partition has, in order;
    ``share_F`` of the training prompts, each partition's the same in all.

    Of the cards: ``quality_F_M`` in [0, 1], what they are counted on to score; ``mean_F_M``, what
    they are expected to, and ``root_F_M_M``, the Cholesky factor of its covariance, so that an
    expectation can be drawn; ``worth_F_M``, the effective number of outcomes behind it;
    ``cost_ratio_F_M`` above 0, their cost over their mean cost.

    ``seen_E_D``: words of requests that training has seen, along the directions, at unit length.

    ``length``: mean and unit of the logarithm of a request's characters; ``reach``, where it and
    the tool features are clipped.

    With tools also: ``tool_mean_T`` and ``tool_unit_T``, by which the features are centred and
    scaled; ``stem_weight_S`` of the stems in buckets ``stems_S``, seen in so
    many ``prompts``; and ``shape_mean_F_S``, ``shape_unit_F_S`` of each family's features and log
    length, with ``shape_range``, the distances at which a request begins to be strange and is a
    stranger.
    """

    def __init__(self, arrays: dict[str, Any], families: Sequence[str], cards: Sequence[str]):
        self._np = need("numpy", _PURPOSE)
        self.families, self.cards = tuple(families), tuple(cards)
        self.arrays = arrays
        np = self._np
        self._buckets = np.asarray(arrays["buckets_K"])
        self._idf = np.asarray(arrays["idf_K"], dtype=np.float64)
        # A request touches a few hundred rows of it.
        self._basis = np.asarray(arrays["basis_K_D"])
        self._weight = np.asarray(arrays["weight_F_P"], dtype=np.float64)
        self._bias = np.asarray(arrays["bias_F"], dtype=np.float64)
        self._quality = np.asarray(arrays["quality_F_M"], dtype=np.float64)
        self._ratio = np.asarray(arrays["cost_ratio_F_M"], dtype=np.float64)
        self._starts = np.concatenate([[0], np.cumsum(arrays["block_B"])])
        seen = arrays.get("seen_E_D")
        self._seen = None if seen is None else np.asarray(seen, dtype=np.float32)
        self._tools = _ToolReading.of(arrays)
        self._shape = _Shapes.of(arrays, self._tools)
        expected = (len(self.families), len(self.cards))
        if self._quality.shape != expected or self._ratio.shape != expected:
            raise ValueError(
                f"the family head holds {self._quality.shape} estimates for {expected[0]} families "
                f"and {expected[1]} cards"
            )
        self._mean, self._root = self._uncertain(arrays)
        if self._starts[-1] != len(self.families):
            raise ValueError(
                f"the family head's partitions have {self._starts[-1]} families in all, not "
                f"{len(self.families)}"
            )
        self._mean_length, self._unit_length = (float(x) for x in arrays["length"])
        self._reach = float(arrays["reach"][0])
        width = self._basis.shape[1] + 1 + (0 if self._tools is None else len(FEATURES))
        if self._weight.shape[1] != width:
            raise ValueError(
                f"the family head was fitted on {self._weight.shape[1]} coordinates; this "
                f"xrouter_lg reads {width}. Train again, or install the version that wrote it"
            )

    @classmethod
    def load(cls, path: Path, families: Sequence[str], cards: Sequence[str]) -> FamilyHead:
        """Read the safetensors file of a checkpoint.

        Raises:
            CheckpointError: a damaged file, or arrays of another shape than families and cards.
            MissingExtraError: safetensors or numpy is not installed.
        """
        sizes = {"F": len(families), "M": len(cards)}
        arrays = read_arrays(
            path, _AXES, sizes, optional=(_TOOL_AXES, _DOUBT_AXES, _SEEN_AXES), purpose=_PURPOSE
        )
        units = [arrays[name] for name in ("tool_unit_T", "shape_unit_F_S") if name in arrays]
        units += [arrays["length"][1:], arrays["reach"]]
        if not all((unit > 0).all() for unit in units) or (arrays["block_B"] < 1).any():
            raise CheckpointError(f"{str(path)!r} has a unit that is not above 0; fit it again")
        try:
            return cls(arrays, families, cards)
        except (KeyError, ValueError, IndexError, OverflowError) as error:
            raise CheckpointError(f"{str(path)!r}: {error}") from error

    def _uncertain(self, arrays: dict[str, Any]) -> tuple[Any, Any]:
        """[F, M] means and [F, M·M] roots; None for a head without."""
        np = self._np
        if "root_F_M_M" not in arrays:
            return None, None
        mean = np.asarray(arrays["mean_F_M"], dtype=np.float64)
        root = np.asarray(arrays["root_F_M_M"], dtype=np.float64)
        families, cards = len(self.families), len(self.cards)
        if mean.shape != (families, cards) or root.shape != (families, cards, cards):
            raise ValueError(
                f"the family head holds means {mean.shape} and roots {root.shape} for {families} "
                f"families and {cards} cards"
            )
        return mean, root.reshape(families, -1)

    @property
    def partition(self) -> tuple[str, ...]:
        """The families of the first partition, by which reports tell requests apart."""
        return self.families[self.blocks[0]]

    @property
    def blocks(self) -> tuple[slice, ...]:
        """Which of ``families`` each partition has."""
        return tuple(slice(int(a), int(b)) for a, b in itertools.pairwise(self._starts))

    def probabilities(self, text: str) -> tuple[list[float], float]:
        """P(family) in the order of ``families``, the mean over partitions (so that all sum to 1),
        and the share of known words."""
        np = self._np
        point, known = self.point(text)
        if known is None:
            return (np.asarray(self.arrays["share_F"], dtype=np.float64)).tolist(), 0.0
        logits = self._weight @ point + self._bias
        shares = np.empty(len(logits))
        blocks = len(self._starts) - 1
        for start, stop in itertools.pairwise(self._starts):
            mass = np.exp(logits[start:stop] - logits[start:stop].max())
            shares[start:stop] = mass / (mass.sum() * blocks)
        return shares.tolist(), known

    def point(self, text: str) -> tuple[Any, float | None]:
        """[P] coordinates of a request, and the share of its words that are known; None for a text
        without a word."""
        np = self._np
        place = np.zeros(self._weight.shape[1])
        counts = bucket_counts(text)
        if not counts:
            return place, None
        found = np.fromiter(counts, dtype=np.int64, count=len(counts))
        value = np.fromiter((1.0 + math.log(n) for n in counts.values()), dtype=np.float64)
        at = np.minimum(np.searchsorted(self._buckets, found), len(self._buckets) - 1)
        seen = self._buckets[at] == found
        known = float(value[seen].sum() / value.sum())
        at, weighted = at[seen], value[seen] * self._idf[at[seen]]
        length = float(np.sqrt((weighted**2).sum()))
        width = self._basis.shape[1]
        if length > 0:
            place[:width] = (weighted / length) @ self._basis[at].astype(np.float64)
        place[width] = self._length(text)
        if self._tools is not None:
            place[width + 1 :] = self._tools.scaled(text)
        place[width:] = place[width:].clip(-self._reach, self._reach)
        return place, known

    def _length(self, text: str) -> float:
        return (math.log1p(len(text)) - self._mean_length) / self._unit_length

    def longer_than_seen(self, text: str) -> bool:
        """Whether a text is longer than next to all of training's."""
        return self._length(text) > self._reach

    def read(self, text: str) -> FamilyReading:
        """Expected score and cost of every card for a request's text."""
        shares, known = self.probabilities(text)
        quality = self._np.asarray(shares) @ self._quality
        ratio = self._np.asarray(shares) @ self._ratio
        first = shares[: int(self._starts[1])]
        return FamilyReading(
            quality=dict(zip(self.cards, quality.tolist(), strict=True)),
            cost_ratio=dict(zip(self.cards, ratio.tolist(), strict=True)),
            known=known,
            family=self.families[max(range(len(first)), key=first.__getitem__)],
            near=1.0 if self._shape is None else self._shape.near(text),
            shares=tuple(shares),
        )

    def along(self, grams: Sequence[str]) -> tuple[Any, Any]:
        """[G] whether words and neighbouring pairs, in small letters, are known; and [G, D] what
        each adds to a text along the directions, where it stands in it once."""
        np = self._np
        gram_G = np.array([zlib.crc32(gram.encode()) % BUCKETS for gram in grams], dtype=np.int64)
        at = np.minimum(np.searchsorted(self._buckets, gram_G), len(self._buckets) - 1)
        known = self._buckets[at] == gram_G
        weight = (self._idf[at] * known).astype(np.float32)
        return known, self._basis[at].astype(np.float32) * weight[:, None]

    def alike(self, words_N_D: Any) -> Any:
        """[N] how much texts' words are like those of the most alike request of training: the
        cosine in the plane, at most 1; 0 for a head that has kept none."""
        np = self._np
        if self._seen is None or not len(words_N_D):
            return np.zeros(len(words_N_D))
        length = np.maximum(np.sqrt((words_N_D**2).sum(axis=1)), 1e-9)
        return ((words_N_D / length[:, None]).astype(np.float32) @ self._seen.T).max(axis=1)

    def likeness(self, text: str) -> float:
        """:meth:`alike` of one text."""
        return float(self.alike(self.point(text)[0][None, : self._basis.shape[1]])[0])

    def expected(self, reading: FamilyReading) -> tuple[Any, Any] | None:
        """[M] what the cards are expected to score on a request that was read, and [M, M] a root
        of its covariance, ``root @ rootᵀ``. None for a head that does not know its uncertainty.

        With s_f the families' shares, Σ s_f (mean_f + root_f z), z ~ N(0, I): the deviations of
        all families go together. Those of one partition, because the request is of one of them
        and nobody knows which; those of several, because they have learned from the same outcomes.
        Drawn apart, they would cancel out that what was seen may mislead all of them.
        """
        if self._root is None:
            return None
        shares = self._np.asarray(reading.shares)
        return shares @ self._mean, (shares @ self._root).reshape(len(self.cards), -1)


class _ToolReading:
    """How the tools that a request defines fit it."""

    def __init__(self, arrays: dict[str, Any], weight: Weight) -> None:
        np = need("numpy", _PURPOSE)
        self._stem_weight = weight
        self._mean = np.asarray(arrays["tool_mean_T"], dtype=np.float64)
        self._unit = np.asarray(arrays["tool_unit_T"], dtype=np.float64)
        if len(self._mean) != len(FEATURES):
            raise ValueError(
                f"the family head was fitted on {len(self._mean)} tool features; this "
                f"xrouter_lg has {len(FEATURES)}. Train again, or install the version that wrote it"
            )

    @classmethod
    def of(cls, arrays: dict[str, Any]) -> _ToolReading | None:
        """None for a head that was fitted on requests without tools."""
        if "tool_mean_T" not in arrays:
            return None
        seen = (arrays["stems_S"].tolist(), arrays["stem_weight_S"].tolist())
        return cls(arrays, stem_weight(*seen, int(arrays["prompts"][0])))

    def features(self, text: str) -> Any:
        return need("numpy", _PURPOSE).asarray(tool_features(ends_of(text), self._stem_weight))

    def scaled(self, text: str) -> Any:
        return (self.features(text) - self._mean) / self._unit


class _Shapes:
    """How each family's requests are shaped: the tool features and the logarithm of the length."""

    def __init__(self, arrays: dict[str, Any], tools: _ToolReading) -> None:
        np = need("numpy", _PURPOSE)
        self._tools = tools
        self._mean = np.asarray(arrays["shape_mean_F_S"], dtype=np.float64)
        self._unit = np.asarray(arrays["shape_unit_F_S"], dtype=np.float64)
        self._low, self._high = (float(x) for x in arrays["shape_range"])

    @classmethod
    def of(cls, arrays: dict[str, Any], tools: _ToolReading | None) -> _Shapes | None:
        if tools is None:
            return None
        return cls(arrays, tools)

    def near(self, text: str) -> float:
        shape = need("numpy", _PURPOSE).append(self._tools.features(text), math.log1p(len(text)))
        distance = float((((shape - self._mean) / self._unit) ** 2).mean(axis=1).min())
        return min(max((self._high - distance) / (self._high - self._low), 0.0), 1.0)


def bucket_counts(text: str) -> Counter[int]:
    """How often each bucket occurs among the words and neighbouring pairs of a text."""
    words = _WORD.findall(ends_of(text).lower())
    pairs = (f"{a} {b}" for a, b in itertools.pairwise(words))
    return Counter(zlib.crc32(gram.encode()) % BUCKETS for gram in (*words, *pairs))


def words_of(text: str) -> list[tuple[int, str]]:
    """Where each word of a text begins, and the word in small letters."""
    return [(found.start(), found[0].lower()) for found in _WORD.finditer(text)]


def ends_of(text: str) -> str:
    """What is read of a text: all of it, or the head and the tail of a long one."""
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]} {text[-_LONGEST // 2 :]}"
