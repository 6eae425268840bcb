
"""What is known of answers before they are asked for: who is right, who agrees, what it costs.

A request is of a kind f and has a difficulty class q; given both, cards are right independently:

    P(m right | f, q) = right_F_Q_M.

Right answers of a kind are the same with probability ``same_right_F`` squared (two proofs may both
be right and differ), wrong ones with ``same_wrong_F`` squared (the popular mistake). How long the
first answers are, against what is usual of their cards and kind, tells of difficulty and of what
the next call will cost: ``length_share_F_Q_B`` over B bins. So a few hundred recorded prompts tell
what *any* set of cards will do together, pairs never looked at included: that is the point, for the
luckiest of eight hundred measured pairs is mostly lucky (docs/quality.md).

A file is safetensors with a JSON header. :mod:`xrouter_lg.fitting.cascade_choice` writes it,
:mod:`xrouter_lg.policies.cascade.planner` plans with it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xrouter_lg.checkpoints.family_head import FamilyHead
from xrouter_lg.errors import MissingExtraError, PolicyConfigError
from xrouter_lg.extras import need
from xrouter_lg.files import whole

PLAN_SCHEMA_VERSION = 2

_OWN = (
    "right_F_Q_M",
    "share_F_Q",
    "same_right_F",
    "same_wrong_F",
    "length_mean_F_M",
    "length_sd_F_M",
    "length_cut_K_B",
    "length_share_F_Q_B",
    "usd_F_M",
    "usd_ratio_F_B",
)


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
        np = need("numpy", "a plan file")
        share = np.asarray(shares, dtype=np.float64)
        mean_M, sd_M = share @ self.length_mean_F_M, share @ self.length_sd_F_M
        usual = [(log_length(n) - mean_M[m]) / sd_M[m] for m, n in zip(cards, lengths, strict=True)]
        cuts = self.length_cut_K_B[min(len(cards), self.first_most) - 1]
        return int(np.searchsorted(cuts, sum(usual) / len(usual)))

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        np = need("numpy", "a plan file")
        header = {
            "schema_version": PLAN_SCHEMA_VERSION,
            "families": list(self.head.families),
            "cards": list(self.head.cards),
            "c_ref_usd": self.c_ref_usd,
            "prices": {name: dict(price) for name, price in self.prices.items()},
        }
        arrays = {f"head.{name}": value for name, value in self.head.arrays.items()}
        for name in _OWN:
            arrays[name] = np.ascontiguousarray(getattr(self, name), dtype=np.float32)
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as temporary:
            need("safetensors.numpy", "a plan file").save_file(
                arrays, temporary, metadata={"xrouter_plans": json.dumps(header, sort_keys=True)}
            )

    @classmethod
    def load(cls, path: Path) -> AnswerModel:
        """Read a file that :meth:`save` wrote.

        Raises:
            PolicyConfigError: no plan file there, or one of another version.
            MissingExtraError: safetensors or numpy is not installed.
        """
        try:
            with need("safetensors", "a plan file").safe_open(path, framework="numpy") as file:
                header = json.loads((file.metadata() or {})["xrouter_plans"])
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except MissingExtraError:
            raise
        except Exception as error:  # safetensors has an error type of its own
            raise PolicyConfigError(
                f"{str(path)!r} is no plan file ({error}); write one with "
                "python -m xrouter_lg.fitting.cascade_choice"
            ) from error
        if header.get("schema_version") != PLAN_SCHEMA_VERSION:
            raise PolicyConfigError(
                f"{str(path)!r} has schema version {header.get('schema_version')!r}; this "
                f"xrouter_lg reads {PLAN_SCHEMA_VERSION}. Fit it again"
            )
        missing = [name for name in _OWN if name not in arrays]
        if missing:
            raise PolicyConfigError(f"{str(path)!r} lacks {', '.join(missing)}; fit it again")
        own = {name: arrays.pop(name) for name in _OWN}
        head = {name.removeprefix("head."): value for name, value in arrays.items()}
        return cls(
            head=FamilyHead(head, header["families"], header["cards"]),
            c_ref_usd=header["c_ref_usd"],
            prices=header["prices"],
            **own,
        )


def log_length(characters: int) -> float:
    """The measure of an answer's length: ratios count, but not between three words and four."""
    return math.log(characters + 30.0)
