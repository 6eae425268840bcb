"""What a table holds, at a glance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import polars as pl

from xrouter_lg.outcomes.schema import KEY

_SHOWN = 12
"""Models in one line."""


@dataclass(frozen=True, slots=True)
class Summary:
    """Counts and means. Means leave nulls out; ``coverage`` is the share of a source's prompts
    that a model answered, ``priced`` the share of its outcomes whose cost is known."""

    outcomes: int
    prompts: int
    models: pl.DataFrame
    """source, model, n, scored, drawn, mean_score, mean_cost_usd, coverage, priced."""
    families: pl.DataFrame
    """source, task, category, prompts, outcomes, mean_score."""

    def to_dict(self) -> dict[str, Any]:
        return {
            "outcomes": self.outcomes,
            "prompts": self.prompts,
            "models": self.models.to_dicts(),
            "overlap": self.overlap().to_dicts(),
            "families": self.families.to_dicts(),
        }

    def sources(self) -> pl.DataFrame:
        """One row per source: prompts, outcomes, models, those with a full and priced column."""
        full = (pl.col("coverage") >= 1.0) & (pl.col("priced") >= 1.0)
        per_model = self.models.group_by("source").agg(
            pl.col("n").sum().alias("outcomes"),
            pl.len().alias("models"),
            full.sum().alias("full_and_priced"),
            pl.col("mean_score").max().alias("best_mean_score"),
        )
        prompts = self.families.group_by("source").agg(
            pl.col("prompts").sum(), pl.len().alias("families")
        )
        return prompts.join(per_model, on="source", how="left").sort("source")

    def overlap(self) -> pl.DataFrame:
        """How often each model was ``asked``, how many of those outcomes are ``scored``, and how
        many were ``drawn`` (another could have been called): what can be told of models against
        each other. The most asked first."""
        return (
            self.models.group_by("model")
            .agg(pl.col("n").sum().alias("asked"), pl.col("scored").sum(), pl.col("drawn").sum())
            .sort("asked", "model", descending=[True, False])
        )

    def _overlap_line(self) -> str:
        rows = self.overlap()
        shown = [
            f"{row['model']} {row['asked']:,}/{row['scored']:,}/{row['drawn']:,}"
            for row in rows.head(_SHOWN).iter_rows(named=True)
        ]
        more = f", and {rows.height - _SHOWN} more" if rows.height > _SHOWN else ""
        return f"asked/scored/drawn: {', '.join(shown)}{more}"

    def __str__(self) -> str:
        with pl.Config(
            tbl_rows=-1, tbl_cols=-1, tbl_hide_column_data_types=True, tbl_hide_dataframe_shape=True
        ):
            return (
                f"{self.outcomes:,} outcomes of {self.prompts:,} prompts\n{self.sources()}\n"
                f"{self._overlap_line()}"
            )


def summarise(outcomes: pl.LazyFrame, prompts: pl.LazyFrame) -> Summary:
    have = outcomes.collect_schema().names()
    cost = pl.col("cost_usd") if "cost_usd" in have else pl.lit(None, pl.Float64)
    drawn = pl.col("propensity") < 1 if "propensity" in have else pl.lit(None, pl.Boolean)
    category = "category" in prompts.collect_schema().names()
    label = pl.col("category") if category else pl.lit(None, pl.String).alias("category")
    text = prompts.select(*KEY, label)
    by_family = ["source", "task", "category"]
    queries = [
        outcomes.group_by("source", "model").agg(
            pl.len().alias("n"),
            pl.col("score").count().alias("scored"),
            drawn.sum().alias("drawn"),
            pl.col("score").mean().alias("mean_score"),
            cost.mean().alias("mean_cost_usd"),
            cost.is_not_null().mean().alias("priced"),
            pl.struct("task", "prompt_id").n_unique().alias("answered"),
        ),
        text.group_by("source").len("prompts"),
        text.group_by(by_family).len("prompts"),
        # Per prompt first: joining the labels to every outcome would cost ten times as much.
        outcomes.group_by(KEY)
        .agg(pl.len().alias("n"), pl.col("score").sum(), pl.col("score").count().alias("scored"))
        .join(text, on=KEY)
        .group_by(by_family)
        .agg(
            pl.col("n").sum().alias("outcomes"),
            (pl.col("score").sum() / pl.col("scored").sum()).alias("mean_score"),
        ),
    ]
    models, sizes, families, scores = pl.collect_all(queries, engine="streaming")
    models = (
        models.join(sizes, on="source", how="left")
        .with_columns((pl.col("answered") / pl.col("prompts")).alias("coverage"))
        .drop("answered", "prompts")
        .sort("source", "mean_score", "model", descending=[False, True, False])
    )
    families = families.join(scores, on=by_family, how="left", nulls_equal=True).sort(by_family)
    return Summary(int(models["n"].sum()), int(sizes["prompts"].sum()), models, families)
