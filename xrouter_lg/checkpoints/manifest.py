"""What a checkpoint is, what it was trained on, how it did: everything about it but its weights.

There are four kinds, and a manifest says which it is. Each has parts of its own:

    head      head                           a family head decides; fitted in seconds, no torch
    slots     language_model, head or none   a language model reads each request in one token
    cascade   head, cascade                  plans of several calls, from recorded answers
    tools     language_model, tools, head    a chat model calls the cards as tools

A head says what every card is worth on a request; what a language model decides, it decides alone
where that fails. Requests that are all alike give none.

All have cards, the unit of the cost weight, and what was measured.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from xrouter_lg.checkpoints.parts import (
    CardStats,
    CascadeStats,
    CostModel,
    DialPoint,
    HeadStats,
    LanguageModel,
    ToolsStats,
)
from xrouter_lg.errors import PolicyConfigError
from xrouter_lg.prompts import slots
from xrouter_lg.typed import misfit

MANIFEST_SCHEMA_VERSION = 3

Kind = Literal["head", "slots", "cascade", "tools"]

_PARTS: Mapping[Kind, tuple[set[str], set[str]]] = {
    "head": ({"family_head"}, {"cost_model"}),
    "slots": ({"language_model"}, {"family_head", "cost_model"}),
    "cascade": ({"family_head", "cascade"}, set()),
    "tools": ({"language_model", "tools"}, {"family_head"}),
}
"""The parts that a kind must have, and those that it may have."""
_EVERY_PART = set().union(*(must | may for must, may in _PARTS.values()))


class CheckpointError(PolicyConfigError):
    """A checkpoint is missing, damaged, or made for something else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Everything about a checkpoint but its weights."""

    kind: Kind
    cards: tuple[CardStats, ...]
    """With a language model of kind ``slots``, in slot order."""
    c_ref_usd: float
    """Mean USD of the best fixed card: the unit of the cost weight."""
    best_fixed: str
    language_model: LanguageModel | None = None
    family_head: HeadStats | None = None
    cost_model: CostModel | None = None
    cascade: CascadeStats | None = None
    tools: ToolsStats | None = None
    added: tuple[CardStats, ...] = ()
    """Cards that joined after training by a probe set: they have no slot, the family head knows
    them. Their ``centre`` is 0 and means nothing."""
    dial: tuple[DialPoint, ...] = ()
    data: Mapping[str, Any] = field(default_factory=dict)
    """Fingerprint, split, seed, numbers of prompts, families."""
    reference: Mapping[str, Any] = field(default_factory=dict)
    """Histograms of the training prompts, from which drift is measured; see
    ``xrouter_lg/fitting/trained_on.py``."""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    verdict: Mapping[str, Any] | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    git_revision: str | None = None
    command: str | None = None
    created_at: float = 0.0
    """Unix time in seconds."""
    files: Mapping[str, str] = field(default_factory=dict)
    """sha256 by file name; filled in when the checkpoint is written."""
    schema_version: int = MANIFEST_SCHEMA_VERSION

    @property
    def version(self) -> str:
        """Short name of exactly these weights and statistics, recorded with every decision."""
        parts = [
            dict(self.files),
            [dataclasses.asdict(card) for card in self.every_card],
            self.c_ref_usd,
        ]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def every_card(self) -> tuple[CardStats, ...]:
        """Trained cards, then added ones."""
        return (*self.cards, *self.added)

    @property
    def model(self) -> LanguageModel:
        """The language model.

        Raises:
            CheckpointError: a kind that has none.
        """
        if self.language_model is None:
            raise CheckpointError(
                f"checkpoint {self.version} is of kind {self.kind!r}: it has no language model, so "
                "it needs neither a base nor a server. Serve it in process: policy='FOLDER'"
            )
        return self.language_model

    def card(self, name: str) -> CardStats | None:
        """The statistics of a trained or added card, None for one never heard of."""
        return next((card for card in self.every_card if card.name == name), None)

    def weight_for_quality(self, target: float) -> float:
        """The largest cost weight of the dial whose quality is at least ``target`` (a share) of
        the dial's best; 0 where none is."""
        best = max((point.quality for point in self.dial), default=0.0)
        good = [p.cost_weight for p in self.dial if p.quality >= target * best - 1e-12]
        return max(good, default=0.0)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Manifest:
        """The inverse of :meth:`to_dict`.

        Raises:
            CheckpointError: another schema version, or a field missing or of the wrong shape.
        """
        version = data.get("schema_version")
        if version != MANIFEST_SCHEMA_VERSION:
            raise CheckpointError(
                f"the manifest has schema version {version!r}; this xrouter_lg reads "
                f"{MANIFEST_SCHEMA_VERSION}. Train again, or install the version that wrote it"
            )
        known = {f.name for f in dataclasses.fields(cls)}
        try:
            fields = {key: value for key, value in data.items() if key in known}
            fields["cards"] = tuple(CardStats(**card) for card in data["cards"])
            fields["added"] = tuple(CardStats(**card) for card in data.get("added", ()))
            fields["dial"] = tuple(DialPoint(**point) for point in data.get("dial", ()))
            for name, part in (
                ("language_model", LanguageModel),
                ("family_head", HeadStats),
                ("cost_model", CostModel),
                ("cascade", CascadeStats),
                ("tools", ToolsStats),
            ):
                if data.get(name) is not None:
                    fields[name] = part.from_dict(data[name])
            manifest = cls(**fields)
            if manifest.kind in get_args(Kind) and (wrong := misfit(manifest)) is not None:
                raise TypeError(wrong)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(
                f"the manifest lacks or misspells a field: {repr(error)[:300]}. It was edited "
                "by hand or damaged; copy the checkpoint again or train again"
            ) from error
        manifest.check()
        return manifest

    def check(self) -> None:
        """Whether all parts are there that this kind needs, and none that it never reads.

        Raises:
            CheckpointError: says what is wrong.
        """
        if self.kind not in get_args(Kind):
            raise CheckpointError(
                f"the manifest's kind is {self.kind!r}; known: {', '.join(get_args(Kind))}"
            )
        if not self.cards:
            raise CheckpointError("the manifest has no card; train again")
        there = {name for name in _EVERY_PART if getattr(self, name) is not None}
        must, may = _PARTS[self.kind]
        for names, what in (
            (must - there, "lacks"),
            (there - must - may, "never reads"),
        ):
            if names:
                raise CheckpointError(
                    f"a checkpoint of kind {self.kind!r} {what} {', '.join(sorted(names))}; train "
                    "again"
                )
        numbers = [self.c_ref_usd]
        for card in self.every_card:
            numbers += [card.prior, card.centre, card.output_tokens, card.cost_usd]
        if not all(isinstance(n, int | float) and math.isfinite(n) for n in numbers):
            raise CheckpointError("the manifest holds a number that is not finite; train again")
        if self.c_ref_usd <= 0:
            raise CheckpointError(
                f"c_ref_usd is {self.c_ref_usd!r}; the cost weight needs a unit above 0"
            )
        self._check_readers()

    def _check_readers(self) -> None:
        """Whether every card is read by somebody, and everybody is read."""
        blocks = () if self.language_model is None else self.language_model.blocks
        most = len(slots.CARD_SLOTS)
        if blocks and (
            self.kind != "slots"
            or sum(blocks) != len(self.cards)
            or min(blocks) < 1
            or max(blocks) > most
        ):
            raise CheckpointError(
                f"blocks {blocks} do not cut {len(self.cards)} cards; train again"
            )
        head = self.family_head
        if head is None:
            return
        unread = [card.name for card in self.cards if card.name not in head.cards]
        if self.kind == "slots" and head.share >= 1.0 and not unread:
            raise CheckpointError(
                "its family head has all of the say, so its language model is never read; write it "
                "as kind 'head'"
            )
        if self.kind != "slots" and unread:
            raise CheckpointError(
                f"its family head does not know {', '.join(unread)}, and nothing else reads them"
            )
