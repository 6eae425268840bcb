"""Splits that stay put."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.grids import make_grid, two_task_grid
from xrouter_lg.outcomes.split import family_folds, random_split, trained_on

TASKS = two_task_grid()


def test_a_random_split_loses_and_doubles_nothing() -> None:
    train, test = random_split(TASKS, seed=3)
    assert sorted(train.prompt_ids + test.prompt_ids) == sorted(TASKS.prompt_ids)
    assert 150 < len(train) < 250


def test_a_prompts_half_does_not_depend_on_the_others() -> None:
    train, _ = random_split(TASKS, seed=3)
    fewer, _ = random_split(TASKS.rows(np.arange(100)), seed=3)
    assert set(fewer.prompt_ids) == set(train.prompt_ids) & set(TASKS.prompt_ids[:100])


def test_a_larger_share_only_adds_to_the_training_side() -> None:
    small, large = (trained_on(TASKS.prompt_ids, seed=1, train_share=s) for s in (0.3, 0.7))
    assert not (small & ~large).any() and abs(small.mean() - 0.3) < 0.08


def test_seeds_give_unrelated_splits() -> None:
    one, two = (trained_on(TASKS.prompt_ids, seed=seed, train_share=0.5) for seed in (1, 2))
    assert abs((one == two).mean() - 0.5) < 0.08


def test_a_split_is_the_same_for_ever() -> None:
    sides = trained_on([f"s|t|{i}" for i in range(12)], seed=7, train_share=0.5)
    assert "".join("T" if side else "." for side in sides) == ".TTTTTT.TTTT"


def test_every_family_is_unseen_in_exactly_one_fold() -> None:
    held_out = np.zeros(len(TASKS))
    for train, test, mask in family_folds(TASKS, seed=0):
        assert not set(train.families) & set(test.families)
        held_out += mask
    assert (held_out == 1).all()


def test_siblings_are_held_out_together_at_a_smaller_depth() -> None:
    families = ["s|t|easy", "s|t|hard", "s|u|easy"]
    grid = make_grid([[1], [0], [1]], [[1], [1], [1]], families=families)
    sets = {frozenset(test.families) for _, test, _ in family_folds(grid, seed=0, depth=2)}
    assert sets == {frozenset(families[:2]), frozenset(families[2:])}


def test_one_family_cannot_be_left_out() -> None:
    with pytest.raises(ValueError, match="at least two"):
        list(family_folds(make_grid([[1], [0]], [[1], [1]]), seed=0))
