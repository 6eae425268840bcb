"""What kind of task is this? A second, cheap reading of a request beside the language model's.

A multinomial logistic regression over hashed words and word pairs gives P(family | request); what
each card scores and costs in each family is known from training:

    quality_m = sum_f P(f) · quality_fm,     cost_m = sum_f P(f) · cost_fm.

Recognising the kind of task and going by what is known of it beats per-prompt estimates, and its
errors differ from the language model's, so that the mean of both beats either (docs/quality.md).

It also says how far a request lies from what was trained on: the share of its words that were seen
in training. Far from it, both readings are shrunk towards each card's overall mean.

Where training saw tool definitions, the regression also reads how they fit the question
(``tool_fit.py``): that none of the tools offered is of use can't be told from words alone.

Words are counted as (1 + log count) · idf, at unit length; a word's bucket is its CRC-32 modulo
2^16, so no vocabulary travels with a checkpoint, and text can't be read out of it.
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

from xrouter_lg.checkpoints.tool_fit import FEATURES, Weight, stem_weight, tool_features
from xrouter_lg.extras import need

HEAD_FILE = "family_head.safetensors"
BUCKETS = 1 << 16

_PURPOSE = "a trained checkpoint"
_WORD = re.compile(r"(?u)\b\w\w+\b")
_LONGEST = 40_000
"""Characters read of a request, half of them from its end: a pasted book must not cost seconds."""


@dataclass(frozen=True, slots=True)
class FamilyReading:
    """What the head expects of one request."""

    quality: dict[str, float]
    """Expected score by card."""
    cost_ratio: dict[str, float]
    """Expected cost over the card's mean cost."""
    known: float
    """Share of the request's words that training has seen, 0 to 1."""
    family: str
    """The likeliest family."""
    near: float = 1.0
    """1 where the request's tools and length are usual for some family seen in training, falling
    to 0 outside the range of all of them."""


class FamilyHead:
    """A head as it lies in a checkpoint. Arrays: F families, K known buckets, M cards.

    ``buckets_K`` rising; ``idf_K``; ``weight_F_K`` and ``bias_F`` of the regression;
    ``quality_F_M`` in [0, 1]; ``cost_ratio_F_M`` above 0; ``share_F`` of the training prompts.

    With tools also: ``tool_weight_F_T`` of the regression for the T features of ``tool_fit.py``,
    each less ``tool_mean_T``, divided by ``tool_unit_T`` and clipped to ± ``tool_reach``;
    ``stem_weight_S`` of the stems in buckets ``stems_S``, seen in so many ``prompts``; and
    ``shape_mean_F_S``, ``shape_unit_F_S`` of each family's features and log length, with
    ``shape_range``, the distances at which a request begins to be strange and is a stranger.
    """

    def __init__(self, arrays: dict[str, Any], families: Sequence[str], cards: Sequence[str]):
        self._np = need("numpy", _PURPOSE)
        self.families, self.cards = tuple(families), tuple(cards)
        self.arrays = arrays
        np = self._np
        self._buckets = np.asarray(arrays["buckets_K"])
        self._idf = np.asarray(arrays["idf_K"], dtype=np.float64)
        # One row per bucket: a request touches a few hundred of them.
        self._weight_K_F = np.ascontiguousarray(np.asarray(arrays["weight_F_K"]).T)
        self._bias = np.asarray(arrays["bias_F"], dtype=np.float64)
        self._quality = np.asarray(arrays["quality_F_M"], dtype=np.float64)
        self._ratio = np.asarray(arrays["cost_ratio_F_M"], dtype=np.float64)
        self._tools = _ToolReading.of(arrays)
        self._shape = _Shapes.of(arrays, self._tools)
        expected = (len(self.families), len(self.cards))
        if self._quality.shape != expected or self._ratio.shape != expected:
            raise ValueError(
                f"the family head holds {self._quality.shape} estimates for {expected[0]} families "
                f"and {expected[1]} cards"
            )

    @classmethod
    def load(cls, path: Path, families: Sequence[str], cards: Sequence[str]) -> FamilyHead:
        """Read the safetensors file of a checkpoint.

        Raises:
            MissingExtraError: safetensors or numpy is not installed.
            ValueError: arrays of another shape than families and cards.
        """
        need("numpy", _PURPOSE)  # safetensors' own error would not name the extra
        arrays = need("safetensors.numpy", _PURPOSE).load_file(path)
        return cls(arrays, families, cards)

    def probabilities(self, text: str) -> tuple[list[float], float]:
        """P(family) in the order of ``families``, and the share of known words."""
        np = self._np
        counts = bucket_counts(text)
        if not counts:
            return [1.0 / len(self.families)] * len(self.families), 0.0
        found = np.fromiter(counts, dtype=np.int64, count=len(counts))
        value = np.fromiter((1.0 + math.log(n) for n in counts.values()), dtype=np.float64)
        at = np.minimum(np.searchsorted(self._buckets, found), len(self._buckets) - 1)
        seen = self._buckets[at] == found
        known = float(value[seen].sum() / value.sum())
        at, weighted = at[seen], value[seen] * self._idf[at[seen]]
        length = float(np.sqrt((weighted**2).sum()))
        logits = self._bias
        if length > 0:
            logits = logits + (weighted / length) @ self._weight_K_F[at].astype(np.float64)
        if self._tools is not None:
            logits = logits + self._tools.logits(text)
        mass = np.exp(logits - logits.max())
        return (mass / mass.sum()).tolist(), known

    def read(self, text: str) -> FamilyReading:
        """Expected score and cost of every card for a request's text."""
        shares, known = self.probabilities(text)
        quality = self._np.asarray(shares) @ self._quality
        ratio = self._np.asarray(shares) @ self._ratio
        return FamilyReading(
            quality=dict(zip(self.cards, quality.tolist(), strict=True)),
            cost_ratio=dict(zip(self.cards, ratio.tolist(), strict=True)),
            known=known,
            family=self.families[max(range(len(shares)), key=shares.__getitem__)],
            near=1.0 if self._shape is None else self._shape.near(text),
        )


class _ToolReading:
    """The regression's part for tools that a request defines."""

    def __init__(self, arrays: dict[str, Any], weight: Weight) -> None:
        np = need("numpy", _PURPOSE)
        self._stem_weight = weight
        self._weight = np.asarray(arrays["tool_weight_F_T"], dtype=np.float64)
        self._mean = np.asarray(arrays["tool_mean_T"], dtype=np.float64)
        self._unit = np.asarray(arrays["tool_unit_T"], dtype=np.float64)
        self._reach = float(arrays["tool_reach"][0])
        if self._weight.shape[1] != len(FEATURES):
            raise ValueError(
                f"the family head was fitted on {self._weight.shape[1]} tool features; this "
                f"xrouter_lg has {len(FEATURES)}. Train again, or install the version that wrote it"
            )

    @classmethod
    def of(cls, arrays: dict[str, Any]) -> _ToolReading | None:
        """None for a head that was fitted on requests without tools, or before tools were read."""
        if "tool_weight_F_T" not in arrays:
            return None
        seen = (arrays["stems_S"].tolist(), arrays["stem_weight_S"].tolist())
        return cls(arrays, stem_weight(*seen, int(arrays["prompts"][0])))

    def features(self, text: str) -> Any:
        return need("numpy", _PURPOSE).asarray(tool_features(_ends(text), self._stem_weight))

    def logits(self, text: str) -> Any:
        features = self.features(text)
        scaled = ((features - self._mean) / self._unit).clip(-self._reach, self._reach)
        return self._weight @ scaled


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
        if tools is None or "shape_mean_F_S" not in arrays:
            return None
        return cls(arrays, tools)

    def near(self, text: str) -> float:
        shape = need("numpy", _PURPOSE).append(self._tools.features(text), math.log1p(len(text)))
        distance = float((((shape - self._mean) / self._unit) ** 2).mean(axis=1).min())
        return min(max((self._high - distance) / (self._high - self._low), 0.0), 1.0)


def bucket_counts(text: str) -> Counter[int]:
    """How often each bucket occurs among the words and neighbouring pairs of a text."""
    words = _WORD.findall(_ends(text).lower())
    pairs = (f"{a} {b}" for a, b in itertools.pairwise(words))
    return Counter(zlib.crc32(gram.encode()) % BUCKETS for gram in (*words, *pairs))


def _ends(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]} {text[-_LONGEST // 2 :]}"
