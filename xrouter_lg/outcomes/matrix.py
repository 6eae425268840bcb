"""A paired matrix: every prompt answered by every model, as arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import polars as pl

from xrouter_lg.outcomes.schema import KEY, OutcomeError


@dataclass(frozen=True, slots=True)
class Matrix:
    """N prompts × M models without a hole. Row order is the prompts table's, models sorted."""

    prompts: tuple[str, ...]
    sources: tuple[str, ...]
    tasks: tuple[str, ...]
    prompt_ids: tuple[str, ...]
    categories: tuple[str | None, ...]
    models: tuple[str, ...]
    score: npt.NDArray[np.float64]
    """[N, M] in [0, 1]."""
    cost: npt.NDArray[np.float64]
    """[N, M] in USD."""
    output_tokens: npt.NDArray[np.float64]
    """[N, M], NaN where unknown."""
    responses: npt.NDArray[np.object_] | None = None
    """[N, M] of str or None; only when asked for."""
    dropped: int = 0
    """Prompts left out because a model lacks a score or a known cost there."""

    def __len__(self) -> int:
        return len(self.prompts)

    def take(self, rows: npt.ArrayLike) -> Matrix:
        """The prompts of a boolean mask [N] or an array of row numbers."""
        chosen = np.asarray(rows)
        index = np.flatnonzero(chosen) if chosen.dtype == np.bool_ else chosen
        rows_kept: list[int] = index.tolist()

        def of(values: Sequence[str]) -> tuple[str, ...]:
            return tuple(values[i] for i in rows_kept)

        return replace(
            self,
            prompts=of(self.prompts),
            sources=of(self.sources),
            tasks=of(self.tasks),
            prompt_ids=of(self.prompt_ids),
            categories=tuple(self.categories[i] for i in rows_kept),
            score=self.score[index],
            cost=self.cost[index],
            output_tokens=self.output_tokens[index],
            responses=None if self.responses is None else self.responses[index],
        )

    def only(self, models: Sequence[str]) -> Matrix:
        """The same prompts with these models, in this order."""
        unknown = [name for name in models if name not in self.models]
        if unknown:
            raise OutcomeError(f"no model {unknown[0]!r}; there are {', '.join(self.models)}")
        index = [self.models.index(name) for name in models]
        return replace(
            self,
            models=tuple(models),
            score=self.score[:, index],
            cost=self.cost[:, index],
            output_tokens=self.output_tokens[:, index],
            responses=None if self.responses is None else self.responses[:, index],
        )


def build(
    outcomes: pl.LazyFrame,
    prompts: pl.LazyFrame,
    *,
    sources: Sequence[str] | None,
    tasks: Sequence[str] | None,
    models: Sequence[str] | None,
    aliases: Mapping[str, str] | None,
    min_coverage: float,
    responses: bool,
) -> Matrix:
    """See :meth:`xrouter_lg.outcomes.OutcomeTable.matrix`."""
    chosen = pl.lit(True)
    if sources is not None:
        chosen &= pl.col("source").is_in(list(sources))
    if tasks is not None:
        chosen &= pl.col("task").is_in(list(tasks))
    text = prompts.filter(chosen).collect()
    if not text.height:
        raise OutcomeError(f"no prompt of sources {sources!r} and tasks {tasks!r}")
    index = text.select(KEY).with_row_index("__i")
    have = outcomes.collect_schema().names()
    wanted = [n for n in ("output_tokens", "response") if n in have and (n[0] == "o" or responses)]
    if "cost_usd" not in have:
        raise OutcomeError("the outcomes have no cost_usd: nothing can be routed by cost")
    known = (
        outcomes.filter(chosen, pl.col("score").is_not_null(), pl.col("cost_usd").is_not_null())
        .select(*KEY, "model", "score", "cost_usd", *wanted)
        .with_columns(pl.col("model").replace(dict(aliases or {})))
        .join(index.lazy(), on=KEY)
        .collect()
    )
    names = _models(known, text, models, min_coverage)
    number = {name: j for j, name in enumerate(names)}
    known = known.filter(pl.col("model").is_in(names))
    i = known["__i"].to_numpy()
    j = known["model"].replace_strict(number, return_dtype=pl.Int64).to_numpy()
    if len(np.unique(i * np.int64(len(names)) + j)) < len(i):
        raise OutcomeError(
            "a prompt has two outcomes of one model: two models share an alias, or the table has "
            "duplicates (validate it)"
        )

    def filled(column: str) -> npt.NDArray[np.float64]:
        values = np.full((text.height, len(names)), np.nan)
        if column in known.columns:
            values[i, j] = known[column].cast(pl.Float64).to_numpy()
        return values

    score = filled("score")
    answers: npt.NDArray[np.object_] | None = None
    if responses:
        answers = np.full((text.height, len(names)), None, dtype=object)
        if "response" in known.columns:
            answers[i, j] = known["response"].to_list()
    category = text["category"].to_list() if "category" in text.columns else [None] * text.height
    whole = Matrix(
        prompts=tuple(text["prompt"]),
        sources=tuple(text["source"]),
        tasks=tuple(text["task"]),
        prompt_ids=tuple(text["prompt_id"]),
        categories=tuple(category),
        models=names,
        score=score,
        cost=filled("cost_usd"),
        output_tokens=filled("output_tokens"),
        responses=answers,
    )
    complete = ~np.isnan(score).any(axis=1)
    if not complete.any():
        raise OutcomeError(f"no prompt has an outcome of all of {', '.join(names)}")
    return replace(whole.take(complete), dropped=int((~complete).sum()))


def _models(
    known: pl.DataFrame,
    text: pl.DataFrame,
    models: Sequence[str] | None,
    min_coverage: float,
) -> tuple[str, ...]:
    """The given models, or all that cover enough of every source; sorted."""
    size = text.group_by("source").len("prompts")
    covered = (
        known.group_by("source", "model")
        .len("n")
        .join(size, on="source")
        .with_columns((pl.col("n") / pl.col("prompts")).alias("coverage"))
    )
    if models is not None:
        unknown = sorted(set(models) - set(covered["model"]))
        if unknown:
            there = ", ".join(sorted(set(covered["model"])))
            raise OutcomeError(
                f"no outcome of {unknown[0]!r} with score and known cost; there are {there}"
            )
        return tuple(sorted(set(models)))
    enough = (
        covered.filter(pl.col("coverage") >= min_coverage)
        .group_by("model")
        .len("sources")
        .filter(pl.col("sources") == size.height)
    )
    if not enough.height:
        best = covered.sort("coverage", descending=True).head(3)
        shown = ", ".join(
            f"{m} {c:.0%} of {s}"
            for s, m, c in best.select("source", "model", "coverage").iter_rows()
        )
        raise OutcomeError(
            f"no model covers {min_coverage:.0%} of each of {size.height} sources with score and "
            f"known cost (best: {shown}); lower min_coverage or choose sources"
        )
    return tuple(sorted(enough["model"]))
