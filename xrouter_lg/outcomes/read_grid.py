"""From the rows of an outcome table to its grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from xrouter_lg.arrays import Ints
from xrouter_lg.outcomes.grid import Column, Omitted, OutcomeGrid, card_name
from xrouter_lg.outcomes.schema import KEY, LIMITS, OutcomeError


def read_grid(
    outcomes: pl.LazyFrame,
    prompts: pl.LazyFrame,
    name: str,
    *,
    sources: Sequence[str] | None,
    models: Sequence[str] | None,
    cards: Sequence[str] | None,
    rename: Mapping[str, str],
    more: Sequence[str | pl.Expr],
    about: Sequence[str],
    every: bool,
) -> OutcomeGrid:
    """See :meth:`xrouter_lg.outcomes.OutcomeTable.grid`; ``name`` is the table's, for errors."""
    have = outcomes.collect_schema().names()
    if "cost_usd" not in have:
        if not every:
            raise OutcomeError(
                f"{name} lacks the column cost_usd: what costs nothing known is no candidate"
            )
        outcomes, have = (
            outcomes.with_columns(cost_usd=pl.lit(None, pl.Float64)),
            [*have, "cost_usd"],
        )
    if sources is not None:
        inside = pl.col("source").is_in(list(sources))
        outcomes, prompts = outcomes.filter(inside), prompts.filter(inside)
    asked = [pl.col(one) if isinstance(one, str) else one for one in more]
    asked = [one.alias(f"+{one.meta.output_name()}") for one in asked if _there(one, have)]
    table = outcomes.select(
        *KEY, pl.col("model").replace(dict(rename)), "score", "cost_usd", *asked
    ).collect()
    if not table.height and not every:
        raise OutcomeError(f"{name} has no outcome of sources {sources!r}")
    _check_values(table, name)
    card_of = _columns(table["model"].unique().to_list(), name, models, cards)
    table = table.with_columns(column=pl.col("model").replace_strict(card_of, default=None))
    ours = table.filter(pl.col("column").is_not_null())
    blank = pl.col("score").is_null() | pl.col("cost_usd").is_null()
    known = ours.filter(~blank)
    _check_once(ours if every else known, name, "model" if cards is None else "card")
    text = _prompts(prompts, ours if every else known, name, about, every=every)
    names = {column: model for model, column in sorted(card_of.items(), reverse=True)}
    order = sorted(names, key=lambda column: names[column])
    if models is not None and cards is None:
        order = list(models)
    place = _Places(text, order)
    return OutcomeGrid(
        keys=tuple(text.select(KEY).iter_rows()),
        prompts=tuple(text["prompt"]),
        families=tuple(
            text.select(
                pl.concat_str(["source", "task", "category"], separator="|", ignore_nulls=True)
            ).to_series()
        ),
        models=tuple(names[column] for column in order),
        cards=() if cards is None else tuple(order),
        score=place.cells(known, "score"),
        cost=place.cells(known, "cost_usd"),
        more={
            column[1:]: place.cells(ours, column) for column in table.columns if column[0] == "+"
        },
        about={column: text[column].to_numpy() for column in about if column in text.columns},
        omitted=Omitted(
            strangers=_counts(table.filter(pl.col("column").is_null())),
            unpriced=_counts(ours.filter(blank)),
            bare=0 if every else table.select(KEY).unique().height - text.height,
        ),
    )


class _Places:
    """Where the outcomes of a prompt and a column stand in the grid."""

    def __init__(self, text: pl.DataFrame, columns: Sequence[str]) -> None:
        self._rows = text.select(KEY).with_row_index("row")
        self._column = {column: m for m, column in enumerate(columns)}

    def cells(self, frame: pl.DataFrame, name: str) -> Column:
        at = frame.select(*KEY, "column", name).join(self._rows, on=KEY)
        i: Ints = at["row"].to_numpy()
        # By hand: replace_strict gives floats where no outcome is left.
        j = np.array([self._column[column] for column in at["column"]], dtype=np.int64)
        shape, values = (self._rows.height, len(self._column)), at[name]
        if values.dtype == pl.Boolean:
            found: Column = np.zeros(shape, dtype=np.bool_)
            values = values.fill_null(False)
        elif values.dtype.is_numeric():
            found = np.full(shape, np.nan)
            values = values.cast(pl.Float64).fill_null(np.nan)
        else:
            found = np.full(shape, None, dtype=object)
        found[i, j] = values.to_numpy()
        return found


def _there(column: pl.Expr, have: Sequence[str]) -> bool:
    return set(column.meta.root_names()) <= set(have)


def _columns(
    names: Sequence[str], table: str, models: Sequence[str] | None, cards: Sequence[str] | None
) -> dict[str, str]:
    """The column of each model of the table that has one: its card's name, or its own."""
    if cards is None:
        if models is None:
            return {name: name for name in names}
        if absent := [name for name in models if name not in names]:
            raise OutcomeError(
                f"{table} has no outcome of {absent!r}; there are {', '.join(sorted(names)[:12])}"
            )
        return {name: name for name in models}
    wanted = set(cards) if models is None else {card_name(name) for name in models}
    if strange := sorted(wanted - set(cards)):
        raise OutcomeError(f"--models names {strange[0]!r}, which is no card of this checkpoint")
    found = {name: card for name in names if (card := card_name(name)) in wanted}
    if not found:
        raise OutcomeError(
            f"none of the models in {table} is a card of this checkpoint "
            f"({', '.join(sorted(cards))}); map names with --rename TABLE=CARD"
        )
    return found


def _prompts(
    prompts: pl.LazyFrame, ours: pl.DataFrame, name: str, about: Sequence[str], *, every: bool
) -> pl.DataFrame:
    """The rows of the grid: prompts with a candidate, rising, or every prompt as they stand."""
    have = prompts.collect_schema().names()
    if "category" not in have:
        prompts = prompts.with_columns(category=pl.lit(None, pl.String))
    extra = [column for column in about if column in have and column != "category"]
    text = prompts.select(*KEY, "prompt", "category", *extra).collect()
    if text.select(KEY).is_duplicated().any():
        raise OutcomeError(f"{name} has two texts for one (source, task, prompt_id)")
    if every:
        found, lost = text, ours.join(text, on=KEY, how="anti").select(KEY).n_unique()
    else:
        found = ours.select(KEY).unique().join(text, on=KEY, how="left").sort(KEY)
        lost = found["prompt"].null_count()
    if lost:
        raise OutcomeError(f"{lost} prompts of {name} have no text in the prompts table")
    return found


def _check_once(rows: pl.DataFrame, name: str, what: str) -> None:
    """Whether every cell of the grid has one row."""
    twice = rows.filter(rows.select(*KEY, "column").is_duplicated())
    if twice.height:
        first = twice.sort(*KEY, "column").row(0, named=True)
        raise OutcomeError(
            f"{name} has two outcomes of one {what} for one prompt ({first['model']!r} on "
            f"{_place(first)}): duplicates, or two models that are renamed to one. Keep one, or "
            "give repeats their own prompt_id"
        )


def _check_values(rows: pl.DataFrame, name: str) -> None:
    """Whether what is read by its value lies where it may; a log's columns stand behind a +."""
    for column, limits in LIMITS.items():
        for there in (column, f"+{column}"):
            if there not in rows.columns:
                continue
            if (kind := rows[there].dtype).is_nested():
                raise OutcomeError(
                    f"{name}: {column} holds values of the type {kind}; it must {limits.rule}"
                )
            if not kind.is_numeric():
                continue
            # NaN lies between nothing and nothing, infinity between 0 and itself.
            value = pl.col(there).cast(pl.Float64)
            known = value.is_not_null()
            if there != column:
                known &= value.is_not_nan()  # as some write what is unknown
            bad = rows.filter(known & ~limits.holds(value))
            if bad.height:
                first = bad.row(0, named=True)
                raise OutcomeError(
                    f"{name}: {column} is {first[there]!r} for {first['model']!r} on "
                    f"{_place(first)}; it must {limits.rule}"
                )


def _place(row: Mapping[str, object]) -> str:
    return "|".join(str(row[part]) for part in KEY)


def _counts(rows: pl.DataFrame) -> dict[str, int]:
    counted = rows.group_by("model").len().sort("model")
    return dict(zip(counted["model"].to_list(), counted["len"].to_list(), strict=True))
