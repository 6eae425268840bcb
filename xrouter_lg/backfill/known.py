"""What an outcome table knows already: prompts × cards, with holes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from xrouter_lg.backfill.errors import BackfillError
from xrouter_lg.errors import PoolError
from xrouter_lg.outcomes import OutcomeTable
from xrouter_lg.outcomes.schema import KEY
from xrouter_lg.pool.pool import ModelCard, normalise_name

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Known:
    """N prompts × M cards."""

    keys: tuple[tuple[str, str, str], ...]
    """(source, task, prompt_id), in the order of the prompts table."""
    prompts: tuple[str, ...]
    families: tuple[str, ...]
    """``source|task|category``."""
    references: tuple[str | None, ...]
    metas: tuple[str | None, ...]
    """JSON as stored; read with :func:`meta_of`."""
    cards: tuple[str, ...]
    score: Floats
    """[N, M], NaN where unknown."""
    answered: Bools
    """[N, M] whether an answer is there that was not scored yet."""
    spend: Floats
    """[N] USD of the dearest outcome there is, by whichever model; NaN where none is priced."""
    output_tokens: Floats
    """[M] mean length of a card's answers, NaN where it has none."""
    labels: Mapping[str, str]
    """What the table calls each card; the card's own name where it has none yet."""

    def __len__(self) -> int:
        return len(self.keys)


def read_known(
    table: OutcomeTable, cards: Sequence[ModelCard], *, rename: Mapping[str, str] | None = None
) -> Known:
    """The table as its cards see it. A model belongs to the card of its name (normalised, after
    ``rename``) or of its provider's name for it; outcomes of other models only count as spend.

    Raises:
        BackfillError: ``rename`` names a model or a card that does not exist.
        OutcomeError: the table is broken; every defect is listed.
    """
    table.validate().raise_if_bad()
    text = _with_columns(table.prompts, ("category", "reference", "meta")).collect()
    rows = _with_columns(table.outcomes, ("cost_usd", "output_tokens", "response"))
    rows = rows.select(
        *KEY,
        "model",
        "score",
        pl.col("cost_usd").cast(pl.Float64),
        pl.col("output_tokens").cast(pl.Float64),
        pl.col("response").is_not_null().alias("answered"),
    )
    found = rows.collect().join(text.select(KEY).with_row_index("row"), on=KEY)
    models = found["model"].unique().to_list()
    card_of = _cards(models, cards, rename or {})
    names = tuple(card.name for card in cards)
    n, m = text.height, len(names)
    number = {card: j for j, card in enumerate(names)}
    ours = found.filter(pl.col("model").is_in(list(card_of)))
    i = ours["row"].to_numpy()
    # By hand: replace_strict gives floats where no model of the table is a card.
    j = np.array([number[card_of[model]] for model in ours["model"]], dtype=np.int64)
    value = ours["score"].cast(pl.Float64).fill_null(np.nan).to_numpy()
    scored = np.isfinite(value)
    total, count = np.zeros((n, m)), np.zeros((n, m))
    np.add.at(total, (i[scored], j[scored]), value[scored])
    np.add.at(count, (i[scored], j[scored]), 1)
    answered = np.zeros((n, m), dtype=bool)
    answered[i, j] |= ours["answered"].to_numpy()
    spend = np.full(n, -np.inf)
    priced = found.filter(pl.col("cost_usd").is_not_null())
    np.maximum.at(spend, priced["row"].to_numpy(), priced["cost_usd"].to_numpy())
    length = ours["output_tokens"].fill_null(np.nan).to_numpy()
    with np.errstate(invalid="ignore"):
        outputs = np.array([_mean(length[j == column]) for column in range(m)])
        score = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    family = pl.concat_str(["source", "task", "category"], separator="|", ignore_nulls=True)
    return Known(
        keys=tuple(text.select(KEY).iter_rows()),
        prompts=tuple(text["prompt"]),
        families=tuple(text.select(family).to_series()),
        references=tuple(text["reference"]),
        metas=tuple(text["meta"]),
        cards=names,
        score=score,
        answered=answered & (count == 0),
        spend=np.where(np.isfinite(spend), spend, np.nan),
        output_tokens=outputs,
        labels={name: name for name in names} | _labels(card_of),
    )


def meta_of(text: str | None) -> dict[str, Any]:
    """A prompt's ``meta`` as a mapping; empty where there is none or it is no JSON object."""
    if not text:
        return {}
    try:
        data = json.loads(text)
    except ValueError:
        return {}
    return data if isinstance(data, dict) else {}


def _with_columns(frame: pl.LazyFrame, names: Iterable[str]) -> pl.LazyFrame:
    have = frame.collect_schema().names()
    return frame.with_columns(
        pl.lit(None, pl.String).alias(name) for name in names if name not in have
    )


def _cards(
    models: Sequence[str], cards: Sequence[ModelCard], rename: Mapping[str, str]
) -> dict[str, str]:
    """The card of each model of the table that has one."""
    names = {card.name for card in cards}
    for model, card in rename.items():
        if model not in models:
            raise BackfillError(f"rename: the table has no model {model!r}; it has {models[:8]!r}")
        if card not in names:
            raise BackfillError(f"rename: no card is named {card!r}; cards: {sorted(names)!r}")
    # A card's own name goes before what a provider calls its model.
    by_name = {card.model_name: card.name for card in reversed(cards)}
    by_name |= {name: name for name in names}
    found: dict[str, str] = {}
    for model in models:
        ours = rename.get(model) or by_name.get(model) or by_name.get(_normal(model))
        if ours is not None:
            found[model] = ours
    return found


def _labels(card_of: Mapping[str, str]) -> dict[str, str]:
    """Per card the table's own name for it; the card's name where the table uses that as well."""
    labels: dict[str, str] = {}
    for model, card in sorted(card_of.items()):
        if model == card or card not in labels:
            labels[card] = model
    return labels


def _normal(name: str) -> str:
    try:
        return normalise_name(name)
    except PoolError:
        return name


def _mean(values: Floats) -> float:
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else float("nan")
