"""Tables as they come: holes, strangers, renamed models, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from xrouter_lg.outcomes import OutcomeError, OutcomeTable
from xrouter_lg.outcomes.grid import OutcomeGrid, fingerprint_of

Read = Callable[..., OutcomeGrid]

# source, task, prompt, model, score, cost
ROWS = [
    ("a", "t", "1", "Small-1.0", 1.0, 0.1),
    ("a", "t", "1", "large", 1.0, 1.0),
    ("a", "t", "2", "Small-1.0", 0.0, 0.2),
    ("a", "t", "2", "large", 1.0, None),
    ("a", "t", "2", "stranger", 1.0, 0.1),
    ("b", "u", "1", "small-preview", 0.5, 0.3),
    ("b", "u", "1", "large", None, 2.0),
    ("b", "u", "2", "stranger", 1.0, 0.1),
]
TEXTS: list[tuple[str, ...]] = [
    ("a", "t", "1", "one"),
    ("a", "t", "2", "two"),
    ("b", "u", "1", "three"),
]
TEXTS += [("b", "u", "2", "four"), ("c", "v", "9", "nobody answered this")]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    def reading(
        rows: list[tuple[Any, ...]] = ROWS, texts: list[tuple[str, ...]] = TEXTS, **options: Any
    ) -> OutcomeGrid:
        names = ["source", "task", "prompt_id", "model", "score", "cost_usd"]
        kinds = dict.fromkeys(names[4:], pl.Float64)
        frame = pl.DataFrame(rows, schema=names, orient="row", schema_overrides=kinds)
        frame.sample(fraction=1.0, shuffle=True, seed=3).write_parquet(tmp_path / "o.parquet")
        text = pl.DataFrame(texts, schema=[*names[:3], "prompt"], orient="row")
        text.write_parquet(tmp_path / "p.parquet")
        options.setdefault("cards", ["small_1_0", "large"])
        options.setdefault("rename", {"small-preview": "Small-1.0"})
        return OutcomeTable.load(tmp_path / "o.parquet", tmp_path / "p.parquet").grid(**options)

    return reading


def test_models_find_their_cards_by_normalised_and_by_new_name(read: Read) -> None:
    table = read()
    assert table.models == ("Small-1.0", "large") and table.cards == ("small_1_0", "large")
    assert table.keys == (("a", "t", "1"), ("a", "t", "2"), ("b", "u", "1"))
    assert table.prompts == ("one", "two", "three")


def test_what_is_unknown_is_no_candidate(read: Read) -> None:
    table = read()
    assert table.candidates.tolist() == [[True, True], [True, False], [True, False]]
    assert np.isnan(table.cost[1, 1]) and np.isnan(table.score[2, 1])
    assert table.omitted.unpriced == {"large": 2}


def test_strangers_and_prompts_that_only_they_answered_are_counted(read: Read) -> None:
    table = read()
    assert table.omitted.strangers == {"stranger": 2} and table.omitted.bare == 1


def test_prompts_with_the_same_candidates_are_a_pool(read: Read) -> None:
    pools = read().pools()
    assert [(p.models, p.rows.tolist()) for p in pools] == [
        (("Small-1.0",), [1, 2]),
        (("Small-1.0", "large"), [0]),
    ]


def test_a_complete_matrix_keeps_the_prompts_that_all_models_answered(read: Read) -> None:
    table = read()
    both = table.complete(("Small-1.0", "large"))
    assert both.prompt_ids == ("a|t|1",)
    assert both.cost.tolist() == [[0.1, 1.0]]
    assert len(table.complete(("large", "stranger"))) == 0


def test_cards_may_be_kept_to_the_sources_of_their_pool(read: Read) -> None:
    table = read().within({"a": ["large"]})
    assert table.keys == (("a", "t", "1"), ("b", "u", "1"))
    assert table.candidates.tolist() == [[False, True], [True, False]]
    assert table.omitted.elsewhere == {"Small-1.0": 2}
    assert np.isnan(table.cost[0, 0]) and table.omitted.bare == read().omitted.bare + 1
    assert table.rows(np.array([0])).omitted.elsewhere == table.omitted.elsewhere


def test_a_pool_is_the_prompts_with_exactly_its_models(read: Read) -> None:
    table = read()
    alone = table.of_pool(("Small-1.0",))
    assert alone.prompt_ids == ("a|t|2", "b|u|1")
    assert len(table.of_pool(("large",))) == 0


def test_a_single_table_is_known_by_its_own_fingerprint(read: Read) -> None:
    one, other = read().of_pool(("Small-1.0",)), read().of_pool(("large", "Small-1.0"))
    assert fingerprint_of([one]) == one.fingerprint()
    assert fingerprint_of([one, other]) != fingerprint_of([other, one])


def test_families_are_source_task_and_category_where_there_is_one(
    read: Read, tmp_path: Path
) -> None:
    assert read().families == ("a|t", "a|t", "b|u")
    texts = pl.read_parquet(tmp_path / "p.parquet").with_columns(category=pl.lit("sums"))
    texts.write_parquet(tmp_path / "p.parquet")
    again = OutcomeTable.load(tmp_path / "o.parquet", tmp_path / "p.parquet").grid(cards=["large"])
    assert set(again.families) == {"a|t|sums"}


def test_only_the_wanted_sources_and_models_stay(read: Read) -> None:
    assert read(sources=["b"]).keys == (("b", "u", "1"),)
    only = read(models=["LARGE"])
    assert only.models == ("large",) and only.omitted.strangers == {"Small-1.0": 3, "stranger": 2}
    with pytest.raises(ValueError, match="names 'medium', which is no card"):
        read(models=["medium"])


def test_a_table_without_one_known_model_is_refused(read: Read) -> None:
    with pytest.raises(ValueError, match="--rename TABLE=CARD"):
        read(cards=["other"])


def test_two_models_renamed_to_one_card_must_not_meet_on_a_prompt(read: Read) -> None:
    with pytest.raises(ValueError, match="two outcomes of one card"):
        read(rename={"large": "Small-1.0"})


def test_a_prompt_without_its_text_is_refused(read: Read) -> None:
    with pytest.raises(ValueError, match=r"1 prompts .* have no text"):
        read(texts=TEXTS[1:])
    with pytest.raises(ValueError, match="two texts"):
        read(texts=[*TEXTS, TEXTS[0]])


@pytest.mark.parametrize(
    ("score", "cost", "name"),
    [(1.5, 0.1, "score"), (-0.1, 0.1, "score"), (float("nan"), 0.1, "score"), (1.0, -1.0, "cost")],
)
def test_impossible_values_are_named(score: float, cost: float, name: str, read: Read) -> None:
    with pytest.raises(ValueError, match=f"{name}.*'large' on a\\|t\\|3"):
        read(rows=[*ROWS, ("a", "t", "3", "large", score, cost)])


def test_a_file_that_is_no_table_is_named(tmp_path: Path, read: Read) -> None:
    read()
    tmp_path.joinpath("bad.parquet").write_text("no")
    with pytest.raises(OutcomeError, match=r"bad\.parquet: can't be read"):
        OutcomeTable.load(tmp_path / "bad.parquet", tmp_path / "p.parquet")
    with pytest.raises(OutcomeError, match="there are no outcomes, only prompts"):
        OutcomeTable.load(tmp_path / "p.parquet", tmp_path / "p.parquet")
    free = pl.read_parquet(tmp_path / "o.parquet").drop("cost_usd")
    with pytest.raises(OutcomeError, match=r"lacks the column cost_usd"):
        OutcomeTable.from_frames(free, pl.read_parquet(tmp_path / "p.parquet")).grid()


@pytest.mark.parametrize(
    ("column", "value", "rule"),
    [
        ("propensity", 0.0, r"lie in \(0, 1\]"),
        ("propensity", 1.5, r"lie in \(0, 1\]"),
        ("feedback", 5.0, r"lie in \[0, 1\]"),
        ("observed_at", 1.76e12, "be Unix seconds, not milliseconds"),
        ("observed_at", -1.0, "be Unix seconds"),
    ],
)
def test_what_a_log_tells_must_be_what_it_may_be(
    tmp_path: Path, column: str, value: float, rule: str
) -> None:
    log(tmp_path, pl.lit(value).alias(column))
    with pytest.raises(
        OutcomeError, match=rf"{column} is {value!r} for 'large' on a\|t\|1.*{rule}"
    ):
        OutcomeTable.load(tmp_path / "o.parquet", tmp_path / "p.parquet").grid(
            every=True, more=("score", "cost_usd", column)
        )
    assert not OutcomeTable.load(tmp_path / "o.parquet", tmp_path / "p.parquet").validate().ok


def test_not_a_number_is_how_some_write_what_is_unknown(tmp_path: Path) -> None:
    log(tmp_path, pl.lit(float("nan")).alias("propensity"))
    table = OutcomeTable.load(tmp_path / "o.parquet", tmp_path / "p.parquet").grid(
        every=True, more=("score", "cost_usd", "propensity")
    )
    assert np.isnan(table.more["propensity"].astype(float)).all()


def test_a_log_loses_no_score_to_a_second_row_of_its_cell(read: Read) -> None:
    rows = [("a", "t", "1", "large", 1.0, 1.0), ("a", "t", "1", "large", None, 1.0)]
    with pytest.raises(OutcomeError, match=r"two outcomes of one model .*'large' on a\|t\|1"):
        read(rows, cards=None, rename={}, every=True)


def test_a_log_loses_no_outcome_whose_prompt_has_no_text(read: Read) -> None:
    with pytest.raises(OutcomeError, match=r"1 prompts .* have no text"):
        read(texts=TEXTS[1:], cards=None, rename={}, every=True)


def log(folder: Path, *columns: pl.Expr) -> None:
    """A log of one answer, with these columns besides."""
    names = ["source", "task", "prompt_id", "model", "score", "cost_usd"]
    frame = pl.DataFrame([ROWS[1]], schema=names, orient="row").with_columns(*columns)
    frame.write_parquet(folder / "o.parquet")
    text = pl.DataFrame(TEXTS[:1], schema=[*names[:3], "prompt"], orient="row")
    text.write_parquet(folder / "p.parquet")
