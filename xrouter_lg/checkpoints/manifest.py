"""A trained policy on disk: a manifest, safetensors, and nothing that is ever unpickled.

A checkpoint is a folder:

    manifest.json            what it is, what it was trained on, how it did, how to read its logits
    adapter_model.safetensors + adapter_config.json       a plain PEFT adapter for the base model,
    or model.safetensors + config.json                    the whole model, merged
    tokenizer files          so that prompts can be rendered without the base

It is written to a temporary folder and renamed: a reader sees all of it or none. Everything is
verified at load; what differs is named, with what to do about it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from xrouter_lg.errors import PolicyConfigError
from xrouter_lg.files import whole
from xrouter_lg.prompts import slots

MANIFEST_SCHEMA_VERSION = 1
MANIFEST_FILE = "manifest.json"

_HASHED_SUFFIXES = (".safetensors", ".json", ".jinja", ".txt", ".model")


class CheckpointError(PolicyConfigError):
    """A checkpoint is missing, damaged, or made for something else."""


@dataclass(frozen=True, slots=True)
class BaseIdentity:
    """Which base model a checkpoint belongs to."""

    model_id: str
    sha256: str
    """Digest of the base's safetensors, in the order of their names."""
    tokenizer_sha256: str
    layers: int
    hidden_size: int


@dataclass(frozen=True, slots=True)
class CardStats:
    """What training measured for one card, and how to read its slot.

    The success log-odds of the card on a prompt are
    ``prior + logit(slot) - logit(anchor) - centre``; see ``policies/slot_utility.py``.
    """

    name: str
    line: str
    """The card's line in the prompt, as trained."""
    prior: float
    """Log-odds of success over the training prompts."""
    centre: float
    """Mean of ``logit(slot) - logit(anchor)`` of the untrained base over training prompts."""
    output_tokens: float
    """Mean output tokens; 0 where the table has none."""
    cost_usd: float
    """Mean USD per request on the training prompts."""
    price: Mapping[str, str] | None = None
    """USD per million tokens at training time, None where unknown."""


@dataclass(frozen=True, slots=True)
class CostModel:
    """log(cost relative to the card's mean) as a linear function of the success log-odds of all
    cards: what kind of task it is tells how long the answers are.

    ``log_ratio_m = bias_m + sum_k weight_mk * z_k + tokens_m * log(prompt_tokens)``, clipped to
    ``[low_m, high_m]``, the range seen in training.
    """

    bias: tuple[float, ...]
    weight: tuple[tuple[float, ...], ...]
    tokens: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class HeadStats:
    """The family head beside the language model (``policies/family_head.py``)."""

    file: str
    families: tuple[str, ...]
    cards: tuple[str, ...]
    """Cards that the head knows, in the order of its columns."""
    share: float
    """Weight of the head's expected score; the language model's has the rest."""
    known_low: float
    """Share of known words at and below which a request counts as foreign ..."""
    known_high: float
    """... and at and above which both readings are trusted in full."""


@dataclass(frozen=True, slots=True)
class DialPoint:
    """One setting of the dial, measured on held-out prompts."""

    cost_weight: float
    quality: float
    cost_usd: float
    largest_share: float
    """Share of prompts that went to the most used card."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything about a checkpoint but its weights."""

    base: BaseIdentity
    cards: tuple[CardStats, ...]
    """In slot order."""
    c_ref_usd: float
    """Mean USD of the best fixed card: the unit of the cost weight."""
    best_fixed: str
    weights: Literal["adapter", "merged"]
    codec: str = "slots"
    prompt_hash: str = field(default_factory=slots.prompt_hash)
    blocks: tuple[int, ...] = ()
    """Cards of each block of the prompt, in slot order; empty: 16 a block (``slot_policy.py``)."""
    cost_model: CostModel | None = None
    family_head: HeadStats | None = None
    added: tuple[CardStats, ...] = ()
    """Cards that joined after training by a probe set: they have no slot, the family head knows
    them. Their ``centre`` is 0 and means nothing."""
    dial: tuple[DialPoint, ...] = ()
    data: Mapping[str, Any] = field(default_factory=dict)
    """Fingerprint, split, seed, numbers of prompts, families."""
    reference: Mapping[str, Any] = field(default_factory=dict)
    """Histograms of the training prompts, from which drift is measured; empty in checkpoints that
    were written before there were any. See ``xrouter_lg/fitting/trained_on.py``."""
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
            [dataclasses.asdict(card) for card in (*self.cards, *self.added)],
            self.c_ref_usd,
        ]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]

    def card(self, name: str) -> CardStats | None:
        """The statistics of a trained or added card, None for one never heard of."""
        return next((card for card in (*self.cards, *self.added) if card.name == name), None)

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
            fields["base"] = BaseIdentity(**data["base"])
            fields["cards"] = tuple(CardStats(**card) for card in data["cards"])
            fields["added"] = tuple(CardStats(**card) for card in data.get("added", ()))
            fields["blocks"] = tuple(data.get("blocks", ()))
            fields["dial"] = tuple(DialPoint(**point) for point in data.get("dial", ()))
            model = data.get("cost_model")
            if model is not None:
                weight = tuple(tuple(row) for row in model["weight"])
                vectors = {k: tuple(v) for k, v in model.items() if k != "weight"}
                fields["cost_model"] = CostModel(weight=weight, **vectors)
            head = data.get("family_head")
            if head is not None:
                lists = {name: tuple(head[name]) for name in ("families", "cards")}
                fields["family_head"] = HeadStats(**{**head, **lists})
            manifest = cls(**fields)
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"the manifest lacks or misspells a field: {error!r}. It was edited by hand or "
                "damaged; copy the checkpoint again or train again"
            ) from error
        manifest._check()
        return manifest

    @property
    def reads_model(self) -> bool:
        """Whether the language model has a say: not where the family head has all of it."""
        head = self.family_head
        return head is None or head.share < 1.0 or any(c.name not in head.cards for c in self.cards)

    def _check(self) -> None:
        if not self.cards:
            raise CheckpointError("the manifest has no card; train again")
        cut, most = self.blocks, len(slots.CARD_SLOTS)
        if cut and (sum(cut) != len(self.cards) or min(cut) < 1 or max(cut) > most):
            raise CheckpointError(f"blocks {cut} do not cut {len(self.cards)} cards; train again")
        numbers = [self.c_ref_usd]
        for card in (*self.cards, *self.added):
            numbers += [card.prior, card.centre, card.output_tokens, card.cost_usd]
        if not all(isinstance(n, int | float) and math.isfinite(n) for n in numbers):
            raise CheckpointError("the manifest holds a number that is not finite; train again")
        if self.c_ref_usd <= 0:
            raise CheckpointError(
                f"c_ref_usd is {self.c_ref_usd!r}; the cost weight needs a unit above 0"
            )


def write_checkpoint(
    folder: Path, manifest: Manifest, write_files: Callable[[Path], None]
) -> Manifest:
    """Write weights and manifest to ``folder`` in one rename; the manifest with its digests.

    ``write_files`` puts weights and tokenizer files into the folder it is given. A checkpoint
    that is there already is replaced, and never half.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with whole(folder) as temporary:
        temporary.mkdir()
        write_files(temporary)
        complete = dataclasses.replace(manifest, files=_digests(temporary))
        text = json.dumps(complete.to_dict(), indent=1, sort_keys=True, allow_nan=False)
        temporary.joinpath(MANIFEST_FILE).write_text(text, encoding="utf-8")
    return complete


def read_manifest(folder: str | Path) -> Manifest:
    """The manifest of a checkpoint, its fields checked; weights are not looked at.

    Raises:
        CheckpointError: no checkpoint there, no JSON, another schema, or a field is wrong.
    """
    path = Path(folder) / MANIFEST_FILE
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"no checkpoint in {str(folder)!r}: it has no {MANIFEST_FILE}. Give the folder that "
            "training wrote (its `checkpoint` folder)"
        ) from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{str(path)!r} can't be read: {error}; copy it again") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{str(path)!r} holds no JSON object; copy it again")
    try:
        return Manifest.from_dict(data)
    except CheckpointError as error:
        raise CheckpointError(f"checkpoint {str(folder)!r}: {error}") from error


def verify(folder: str | Path, *, weights: bool = True) -> Manifest:
    """Read a checkpoint and check it against this version of the package: prompt hash, codec, and
    (``weights=True``) the digest of every file.

    Raises:
        CheckpointError: names each difference and the way out.
    """
    root = Path(folder)
    manifest = read_manifest(root)
    where = f"checkpoint {str(folder)!r}"
    if manifest.codec != "slots":
        raise CheckpointError(
            f"{where} has the codec {manifest.codec!r}; this policy reads 'slots'"
        )
    if manifest.prompt_hash != slots.prompt_hash():
        raise CheckpointError(
            f"{where} was trained with prompts of hash {manifest.prompt_hash}; this xrouter_lg "
            f"renders {slots.prompt_hash()}. Train again, or install the version that trained it "
            f"({manifest.versions.get('xrouter_lg', 'unknown')})"
        )
    if weights:
        for name, expected in manifest.files.items():
            path = root / name
            if path.parent != root or not path.is_file():
                raise CheckpointError(f"{where} lacks its file {name!r}; copy it again")
            if (found := _sha256(path)) != expected:
                raise CheckpointError(
                    f"{where}: {name!r} has sha256 {found[:12]}..., the manifest says "
                    f"{expected[:12]}...: it is damaged or was changed; copy it again"
                )
        if not any(name.endswith(".safetensors") for name in manifest.files):
            raise CheckpointError(f"{where} has no safetensors file; train again")
    return manifest


def check_base(manifest: Manifest, found: BaseIdentity) -> None:
    """Refuse a base model other than the one a checkpoint was trained on.

    Raises:
        CheckpointError: says which part differs.
    """
    for name, what in (("tokenizer_sha256", "tokenizer"), ("sha256", "weights")):
        expected, actual = getattr(manifest.base, name), getattr(found, name)
        if expected != actual:
            raise CheckpointError(
                f"the base model's {what} differ: {found.model_id!r} has {actual[:12]}..., the "
                f"checkpoint was trained on {manifest.base.model_id!r} with {expected[:12]}.... "
                "Point `base` at that model, or export the checkpoint merged"
            )


def slot_token_ids(tokenizer: Any) -> dict[str, int]:
    """Token id by slot letter: card slots, answer slots and the anchor.

    Raises:
        PolicyConfigError: a slot is not one token of this vocabulary.
    """
    ids: dict[str, int] = {}
    for letter in slots.CARD_SLOTS + slots.ANCHOR_SLOT:
        encoded = tokenizer.encode(slots.slot_token(letter), add_special_tokens=False)
        if len(encoded) != 1:
            raise PolicyConfigError(
                f"slot {slots.slot_token(letter)!r} is {len(encoded)} tokens in this vocabulary, "
                "not one; the slots codec can't use this base model"
            )
        ids[letter] = int(encoded[0])
    return ids


def tokenizer_hash(tokenizer: Any) -> str:
    """Digest of what a tokenizer does: its vocabulary, and a few texts encoded."""
    probes = ["Good choice: A", "<request>\n1234 + 5.6\n</request>\n", "naïve café 東京 🙂\t\r\n"]
    parts = [
        sorted(tokenizer.get_vocab().items()),
        [list(tokenizer.encode(text, add_special_tokens=False)) for text in probes],
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def weights_digest(folder: Path) -> str:
    """Digest of a model folder's safetensors, one after the other in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        _feed(digest, path)
    return digest.hexdigest()


def _digests(folder: Path) -> dict[str, str]:
    return {
        path.name: _sha256(path)
        for path in sorted(folder.iterdir())
        if path.suffix in _HASHED_SUFFIXES and path.name != MANIFEST_FILE
    }


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    _feed(digest, path)
    return digest.hexdigest()


def _feed(digest: hashlib._Hash, path: Path) -> None:
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
