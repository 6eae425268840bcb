"""The outcome matrix every figure of the judge is computed on, and its two splits."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

KEY = ("source", "task", "prompt_id")


@dataclass(frozen=True)
class Paired:
    """N prompts × M models, nothing missing: every model's score and cost on every prompt."""

    prompt_ids: tuple[str, ...]
    """Unique, `source|task|prompt_id` when read from files."""
    prompts: tuple[str, ...]
    families: tuple[str, ...]
    """The kind of task, e.g. `zeroeval|gsm8k|math`: what leave-families-out holds out."""
    models: tuple[str, ...]
    score: Floats
    """[N, M], 0 to 1."""
    cost: Floats
    """[N, M], USD per request."""

    def __post_init__(self) -> None:
        n, m = len(self.prompt_ids), len(self.models)
        if not n or not m:
            raise ValueError(f"an outcome matrix needs prompts and models, got {n} and {m}")
        if len(self.prompts) != n or len(self.families) != n:
            raise ValueError(
                f"{n} prompt ids, but {len(self.prompts)} prompts and {len(self.families)} families"
            )
        if len(set(self.prompt_ids)) != n or len(set(self.models)) != m:
            raise ValueError("prompt ids and model names must be unique")
        for name, values in (("score", self.score), ("cost", self.cost)):
            if values.shape != (n, m):
                raise ValueError(f"{name} has shape {values.shape}, expected {(n, m)}")
            if not np.isfinite(values).all():
                raise ValueError(f"{name} has unknown values: leave those models or prompts out")
        if self.score.min() < 0 or self.score.max() > 1:
            raise ValueError("scores must lie in [0, 1]")
        if self.cost.min() < 0:
            raise ValueError("costs must not be negative")

    def __len__(self) -> int:
        return len(self.prompt_ids)

    def rows(self, index: Ints | Bools) -> Paired:
        """The same models on the chosen prompts, in the order of `index`."""
        at = np.flatnonzero(index) if index.dtype == np.bool_ else index
        return Paired(
            tuple(self.prompt_ids[i] for i in at),
            tuple(self.prompts[i] for i in at),
            tuple(self.families[i] for i in at),
            self.models,
            self.score[at],
            self.cost[at],
        )

    def joined(self, other: Paired) -> Paired:
        """These prompts and the other's, under the same models."""
        if other.models != self.models:
            raise ValueError(f"the models differ: {self.models!r} and {other.models!r}")
        return Paired(
            self.prompt_ids + other.prompt_ids,
            self.prompts + other.prompts,
            self.families + other.families,
            self.models,
            np.vstack([self.score, other.score]),
            np.vstack([self.cost, other.cost]),
        )

    def best_fixed(self) -> int:
        """The model with the highest mean score; among equals the cheaper."""
        return int(np.lexsort((self.cost.mean(0), -self.score.mean(0)))[0])

    def cheapest(self) -> int:
        """The model with the lowest mean cost; among equals the better."""
        return int(np.lexsort((-self.score.mean(0), self.cost.mean(0)))[0])

    def fingerprint(self) -> str:
        """16 digits of a digest of prompts, models, scores and costs: which table this is."""
        digest = hashlib.sha256(json.dumps([self.prompt_ids, self.models]).encode())
        digest.update(np.ascontiguousarray(self.score).tobytes())
        digest.update(np.ascontiguousarray(self.cost).tobytes())
        return digest.hexdigest()[:16]

    def reference_cost(self) -> float:
        """c_ref: mean USD of the best fixed model, the unit a cost weight is counted in."""
        return float(self.cost[:, self.best_fixed()].mean())


def read_paired(
    outcomes: str | Path,
    prompts: str | Path,
    *,
    sources: Sequence[str] | None = None,
    models: Sequence[str] | None = None,
    rename: Mapping[str, str] | None = None,
    with_category: bool = True,
) -> Paired:
    """Read an outcome table as the largest complete matrix for `models`.

    `models=None` keeps the models that cover every prompt (of `sources`) at a known cost, which
    is the headline pool of the benchmark. With `models` given, prompts that one of them lacks
    are dropped. `rename` maps names before anything else, so one model may carry two names in
    two sources. The family is `source|task`, with the category behind it if `with_category`.
    Rows come out sorted by key: two reads of the same rows agree whatever the file's order.
    """
    table = pl.scan_parquet(outcomes)
    texts = pl.scan_parquet(prompts)
    if sources is not None:
        table = table.filter(pl.col("source").is_in(list(sources)))
        texts = texts.filter(pl.col("source").is_in(list(sources)))
    if rename:
        table = table.with_columns(pl.col("model").replace(dict(rename)))
    known = table.filter(pl.col("cost_usd").is_not_null() & pl.col("score").is_not_null())
    rows = known.select(*KEY, "model", "score", "cost_usd").collect()
    if rows.select(*KEY, "model").is_duplicated().any():
        raise ValueError("two outcomes for one prompt and model: rename maps two models to one?")
    if models is None:
        n_prompts = table.select(pl.struct(KEY).n_unique()).collect().item()
        counts = rows.group_by("model").len()
        models = sorted(counts.filter(pl.col("len") == n_prompts)["model"].to_list())
    if not models:
        raise ValueError("no model covers every prompt at a known cost: name the models wanted")
    rows = rows.filter(pl.col("model").is_in(list(models)))
    score = rows.pivot("model", index=list(KEY), values="score").drop_nulls()
    cost = rows.pivot("model", index=list(KEY), values="cost_usd").drop_nulls()
    absent = [name for name in models if name not in score.columns]
    if absent:
        raise ValueError(f"no outcome at a known cost for {absent!r}")
    wanted = [*KEY, "prompt", *(["category"] if with_category else [])]
    keyed = score.select(KEY).join(texts.select(wanted).collect(), on=KEY).sort(KEY)
    if keyed.height != score.height:
        raise ValueError(f"{score.height - keyed.height} outcomes have no row in {prompts}")
    family = ["source", "task", *(["category"] if with_category else [])]
    return Paired(
        tuple(keyed.select(pl.concat_str(KEY, separator="|")).to_series().to_list()),
        tuple(keyed["prompt"].to_list()),
        tuple(
            keyed.select(pl.concat_str(family, separator="|", ignore_nulls=True))
            .to_series()
            .to_list()
        ),
        tuple(models),
        _aligned(keyed, score, models),
        _aligned(keyed, cost, models),
    )


def _aligned(keyed: pl.DataFrame, values: pl.DataFrame, models: Sequence[str]) -> Floats:
    joined = keyed.select(KEY).join(values, on=KEY, maintain_order="left")
    return np.ascontiguousarray(joined.select(list(models)).to_numpy().astype(np.float64))


def unit_hash(text: str, seed: int) -> float:
    """A stable number in [0, 1) for a text: the same on every machine and in every version."""
    digest = hashlib.sha256(f"{seed}:{text}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def trained_on(prompt_ids: Sequence[str], *, seed: int, train_share: float) -> Bools:
    """[N] which prompts a random split puts on the training side."""
    return np.array([unit_hash(i, seed) < train_share for i in prompt_ids], dtype=np.bool_)


def random_split(table: Paired, *, seed: int, train_share: float = 0.5) -> tuple[Paired, Paired]:
    """Train and test by a hash of the prompt id: adding prompts moves none of the others."""
    in_train = trained_on(table.prompt_ids, seed=seed, train_share=train_share)
    return table.rows(in_train), table.rows(~in_train)


def family_folds(
    table: Paired, *, seed: int, folds: int = 3, depth: int | None = None
) -> Iterator[tuple[Paired, Paired, Bools]]:
    """Train, test and the test mask over the table, each group of families unseen in one fold.

    `depth` holds out by the first parts of `source|task|category`: 1 holds out whole sources, 2
    tasks with all their categories, None single families, whose siblings stay in sight. Groups
    are dealt by their hash, so a fold's groups are the same for every pool.
    """
    for mask in fold_masks(table.families, seed=seed, folds=folds, depth=depth):
        yield table.rows(~mask), table.rows(mask), mask


def fold_masks(
    families: Sequence[str], *, seed: int, folds: int = 3, depth: int | None = None
) -> Iterator[Bools]:
    """The prompts [N] of each fold of the families; see :func:`family_folds`.

    Raises:
        ValueError: fewer than two groups of families.
    """
    groups = ["|".join(name.split("|")[:depth]) for name in families]
    names = sorted(set(groups), key=lambda name: unit_hash(name, seed))
    if len(names) < 2:
        raise ValueError(f"leaving families out needs at least two, got {names!r}")
    used = min(folds, len(names))
    for fold in range(used):
        held_out = set(names[fold::used])
        yield np.array([group in held_out for group in groups])
