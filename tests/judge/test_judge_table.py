from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from xrouter_lg.judge.table import Paired, family_folds, random_split, read_paired


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Two sources; `a` covers all at a known cost, `b` goes by two names, `c` lacks a cost."""
    rows = [
        ("s1", "t", "1", "a", 1.0, 0.1),
        ("s1", "t", "1", "b-old", 0.0, 0.2),
        ("s1", "t", "1", "c", 1.0, None),
        ("s2", "u", "1", "b", 0.5, 0.4),
        ("s2", "u", "1", "a", 0.25, 0.3),
        ("s2", "u", "1", "c", 1.0, 0.1),
        ("s2", "u", "1", "only here", 1.0, 0.1),
    ]
    columns = ["source", "task", "prompt_id", "model", "score", "cost_usd"]
    pl.DataFrame(rows, schema=columns, orient="row").write_parquet(tmp_path / "o.parquet")
    pl.DataFrame(
        {
            "source": ["s2", "s1"],
            "task": ["u", "t"],
            "prompt_id": ["1", "1"],
            "prompt": ["second", "first"],
            "category": ["x", None],
        }
    ).write_parquet(tmp_path / "p.parquet")
    return tmp_path / "o.parquet", tmp_path / "p.parquet"


def test_the_pool_is_what_covers_everything_at_a_known_cost(files: tuple[Path, Path]) -> None:
    table = read_paired(*files, rename={"b-old": "b"})
    assert table.models == ("a", "b")
    assert table.score.tolist() == [[1.0, 0.0], [0.25, 0.5]]
    assert table.cost.tolist() == [[0.1, 0.2], [0.3, 0.4]]


def test_texts_and_families_follow_their_outcomes(files: tuple[Path, Path]) -> None:
    table = read_paired(*files, rename={"b-old": "b"})
    assert table.prompts == ("first", "second")
    assert table.families == ("s1|t", "s2|u|x")


def test_named_models_drop_the_prompts_they_lack(files: tuple[Path, Path]) -> None:
    assert read_paired(*files, models=["c", "a"]).prompt_ids == ("s2|u|1",)


def test_a_model_without_outcomes_is_named(files: tuple[Path, Path]) -> None:
    with pytest.raises(ValueError, match="nobody"):
        read_paired(*files, models=["a", "nobody"])


def test_two_models_renamed_to_one_are_refused(files: tuple[Path, Path]) -> None:
    with pytest.raises(ValueError, match="two outcomes"):
        read_paired(*files, rename={"only here": "a"})


def test_unknown_costs_are_refused(make_table: Callable[..., Paired]) -> None:
    with pytest.raises(ValueError, match="unknown"):
        make_table([[1, 0]], [[1, np.nan]])


def test_a_random_split_loses_and_doubles_nothing(two_tasks: Paired) -> None:
    train, test = random_split(two_tasks, seed=3)
    assert sorted(train.prompt_ids + test.prompt_ids) == sorted(two_tasks.prompt_ids)
    assert 150 < len(train) < 250


def test_a_prompts_half_does_not_depend_on_the_others(two_tasks: Paired) -> None:
    train, _ = random_split(two_tasks, seed=3)
    fewer, _ = random_split(two_tasks.rows(np.arange(100)), seed=3)
    assert set(fewer.prompt_ids) == set(train.prompt_ids) & set(two_tasks.prompt_ids[:100])


def test_every_family_is_unseen_in_exactly_one_fold(two_tasks: Paired) -> None:
    held_out = np.zeros(len(two_tasks))
    for train, test, mask in family_folds(two_tasks, seed=0):
        assert not set(train.families) & set(test.families)
        held_out += mask
    assert (held_out == 1).all()


def test_siblings_are_held_out_together_at_a_smaller_depth(
    make_table: Callable[..., Paired],
) -> None:
    families = ["s|t|easy", "s|t|hard", "s|u|easy"]
    table = make_table([[1], [0], [1]], [[1], [1], [1]], families=families)
    sets = {frozenset(test.families) for _, test, _ in family_folds(table, seed=0, depth=2)}
    assert sets == {frozenset(families[:2]), frozenset(families[2:])}


def test_one_family_cannot_be_left_out(make_table: Callable[..., Paired]) -> None:
    with pytest.raises(ValueError, match="at least two"):
        list(family_folds(make_table([[1], [0]], [[1], [1]]), seed=0))


def test_among_equally_good_models_the_cheaper_is_the_best(
    make_table: Callable[..., Paired],
) -> None:
    table = make_table([[1, 1, 0]], [[3, 2, 1]])
    assert (table.best_fixed(), table.cheapest(), table.reference_cost()) == (1, 2, 2.0)
