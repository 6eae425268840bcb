"""What is known of answers before they are asked for: who is right, who agrees, what it costs.

A request is of a kind f and has a difficulty class q; given both, cards are right independently:

    P(m right | f, q) = right_F_Q_M.

Right answers of a kind are the same with probability ``same_right_F`` squared (two proofs may both
be right and differ), wrong ones with ``same_wrong_F`` squared (the popular mistake). How long the
first answers are, against what is usual of their cards and kind, tells of difficulty and of what
the next call will cost: ``length_share_F_Q_B`` over B bins. So a few hundred recorded prompts tell
what *any* set of cards will do together, pairs never looked at included: that is the point, for the
luckiest of eight hundred measured pairs is mostly lucky (docs/quality.md).

It lies in a checkpoint of kind ``cascade`` as two files: the family head, and the arrays that are
its own. :mod:`xrouter_lg.fitting.cascade_checkpoint` writes them,
:mod:`xrouter_lg.policies.cascade.planner` plans with them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xrouter_lg.checkpoints.arrays import read_arrays
from xrouter_lg.checkpoints.family_head import HEAD_FILE, FamilyHead
from xrouter_lg.checkpoints.manifest import CheckpointError, Manifest
from xrouter_lg.extras import need

ANSWERS_FILE = "answers.safetensors"
_PURPOSE = "a cascade"

_OWN = {
    "right_F_Q_M": "FQM",
    "share_F_Q": "FQ",
    "same_right_F": "F",
    "same_wrong_F": "F",
    "length_mean_F_M": "FM",
    "length_sd_F_M": "FM",
    "length_cut_K_B": "KC",
    "length_share_F_Q_B": "FQB",
    "usd_F_M": "FM",
    "usd_ratio_F_B": "FB",
}
"""Its arrays and their axes; C is B - 1."""


@dataclass(frozen=True)
class AnswerModel:
    """F kinds, Q difficulty classes, M cards, B length bins; K sizes of a first set of calls."""

    head: FamilyHead
    right_F_Q_M: Any
    """P(right) of a card."""
    share_F_Q: Any
    """P(q | f); rows sum to 1."""
    same_right_F: Any
    """P(a right answer takes its usual form)."""
    same_wrong_F: Any
    """P(a wrong answer is the popular wrong one)."""
    length_mean_F_M: Any
    """Mean of :func:`log_length` of a card's answers."""
    length_sd_F_M: Any
    length_cut_K_B: Any
    """[K, B - 1] bounds between bins of the mean standardised length of k answers."""
    length_share_F_Q_B: Any
    """P(bin | f, q)."""
    usd_F_M: Any
    """Mean USD of a call."""
    usd_ratio_F_B: Any
    """Cost of further calls over their mean, once the first answers' bin is known."""
    c_ref_usd: float
    prices: Mapping[str, Mapping[str, str]]
    """Price of each card when its costs were recorded (USD per million tokens), where known."""

    @property
    def cards(self) -> tuple[str, ...]:
        return self.head.cards

    @property
    def bins(self) -> int:
        return int(self.length_share_F_Q_B.shape[2])

    @property
    def first_most(self) -> int:
        """Most cards of a first set of calls."""
        return len(self.length_cut_K_B)

    def length_bin(
        self, shares: Sequence[float], cards: Sequence[int], lengths: Sequence[int]
    ) -> int:
        """Bin of the first answers' lengths (characters) under these kind shares."""
        np = need("numpy", "a cascade checkpoint")
        share = np.asarray(shares, dtype=np.float64)
        mean_M, sd_M = share @ self.length_mean_F_M, share @ self.length_sd_F_M
        usual = [(log_length(n) - mean_M[m]) / sd_M[m] for m, n in zip(cards, lengths, strict=True)]
        cuts = self.length_cut_K_B[min(len(cards), self.first_most) - 1]
        return int(np.searchsorted(cuts, sum(usual) / len(usual)))

    def write(self, folder: Path) -> None:
        """Put its own arrays and the head's into a checkpoint's folder."""
        np, numpy_files = need("numpy", _PURPOSE), need("safetensors.numpy", _PURPOSE)
        own = {name: np.ascontiguousarray(getattr(self, name), dtype=np.float32) for name in _OWN}
        numpy_files.save_file(own, folder / ANSWERS_FILE)
        numpy_files.save_file(self.head.arrays, folder / HEAD_FILE)

    @classmethod
    def of(cls, manifest: Manifest, folder: Path) -> AnswerModel:
        """The model of a checkpoint of kind ``cascade``, whose folder was verified.

        Raises:
            CheckpointError: a damaged file, or arrays that do not fit the manifest.
            MissingExtraError: safetensors or numpy is not installed.
        """
        stats, cascade = manifest.family_head, manifest.cascade
        assert stats is not None and cascade is not None  # as the kind says
        sizes = {"F": len(stats.families), "M": len(stats.cards)}
        path = folder / cascade.file
        arrays = read_arrays(path, _OWN, sizes, purpose=_PURPOSE)
        bins = arrays["length_share_F_Q_B"].shape[2]
        if arrays["length_cut_K_B"].shape[1] != bins - 1 or not (arrays["length_sd_F_M"] > 0).all():
            raise CheckpointError(f"{str(path)!r}: its lengths fall into no bins; fit it again")
        return cls(
            head=FamilyHead.load(folder / stats.file, stats.families, stats.cards),
            c_ref_usd=manifest.c_ref_usd,
            prices={card.name: card.price for card in manifest.cards if card.price is not None},
            **{name: arrays[name] for name in _OWN},
        )


def log_length(characters: int) -> float:
    """The measure of an answer's length: ratios count, but not between three words and four."""
    return math.log(characters + 30.0)
