"""Splits that stay put, and what leaks across them."""

from __future__ import annotations

import json
import random
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xrouter_lg.outcomes.leaks import find_leaks
from xrouter_lg.outcomes.split import family_labels, make_split, split_by_family, split_by_hash

WORDS = ["river", "stone", "cloud", "lamp", "wheel", "garden", "copper", "signal", "window"]
texts = st.lists(st.text(max_size=20), min_size=1, max_size=30)


def question(seed: int, words: int = 40) -> str:
    draw = random.Random(seed)
    return " ".join(draw.choice(WORDS) + str(draw.randrange(10_000)) for _ in range(words))


@given(texts, st.randoms(use_true_random=False))
def test_a_prompts_side_does_not_depend_on_its_neighbours(
    prompts: list[str], draw: random.Random
) -> None:
    side = dict(zip(prompts, split_by_hash(prompts), strict=True))
    shuffled = draw.sample(prompts, len(prompts))
    assert split_by_hash(shuffled).tolist() == [side[text] for text in shuffled]


@given(st.text(max_size=30), st.integers(0, 99))
def test_case_and_blanks_do_not_change_a_prompts_side(text: str, seed: int) -> None:
    one, two = split_by_hash([text, f"  {text.upper().lower()}\n"], seed=seed)
    folds_alike = text.casefold() == text.upper().lower().casefold()
    assert one == two or not folds_alike


@given(st.integers(0, 50), st.floats(0.05, 0.9))
def test_a_larger_test_share_only_adds_to_the_test_side(seed: int, share: float) -> None:
    prompts = [str(i) for i in range(50)]
    small = split_by_hash(prompts, test_share=share, seed=seed)
    large = split_by_hash(prompts, test_share=min(share + 0.09, 0.99), seed=seed)
    assert not (small & ~large).any()


def test_sides_are_as_large_as_asked() -> None:
    mask = split_by_hash([f"prompt {i}" for i in range(4000)], test_share=0.3)
    assert abs(mask.mean() - 0.3) < 0.03


def test_seeds_give_unrelated_splits() -> None:
    prompts = [f"prompt {i}" for i in range(2000)]
    agree = (split_by_hash(prompts, seed=1) == split_by_hash(prompts, seed=2)).mean()
    assert abs(agree - 0.5) < 0.05


def test_a_split_is_the_same_for_ever() -> None:
    mask = split_by_hash([f"prompt {i}" for i in range(12)], seed=7)
    assert "".join("T" if side else "." for side in mask) == ".TT..TT..T.."


@given(st.lists(st.sampled_from("abcdef"), min_size=2, max_size=60), st.integers(0, 20))
def test_no_family_is_on_both_sides(families: list[str], seed: int) -> None:
    if len(set(families)) < 2:
        return
    test = split_by_family(families, seed=seed)
    there = {f for f, side in zip(families, test, strict=True) if side}
    here = {f for f, side in zip(families, test, strict=True) if not side}
    assert there and here and not there & here


def test_family_sides_come_near_the_share() -> None:
    families = [str(i % 25) for i in range(1000)]
    assert abs(split_by_family(families, test_share=0.4).mean() - 0.4) <= 0.02


def test_one_family_can_not_be_left_out() -> None:
    with pytest.raises(ValueError, match="at least two"):
        split_by_family(["a", "a"])


@pytest.mark.parametrize("share", [0.0, 1.0, -1.0])
def test_an_impossible_share_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="test_share"):
        split_by_hash(["a"], test_share=share)


def halves(size: int) -> np.ndarray:
    return np.arange(size) % 2 == 1


def test_a_prompt_with_a_word_changed_is_a_leak() -> None:
    base = question(1)
    prompts = [base, base.replace(base.split()[5], "changed"), question(2), question(3)]
    report = find_leaks(prompts, halves(4))
    assert [(leak.train, leak.test) for leak in report.pairs] == [(0, 1)]


def test_equal_prompts_up_to_case_are_a_leak_however_short() -> None:
    assert find_leaks(["Why?", "WHY?"], halves(2)).pairs[0].similarity == 1.0


def test_near_duplicates_on_one_side_do_not_leak() -> None:
    assert find_leaks([question(1), question(1) + "!"], np.array([True, True])).pairs == ()


def test_a_shared_template_is_no_leak() -> None:
    template = "Please answer the following question carefully and reason step by step. " * 5
    prompts = [template + question(i, words=6) for i in range(60)]
    assert find_leaks(prompts, halves(60)).pairs == ()


def test_a_leak_inside_a_shared_template_is_found() -> None:
    template = "Please answer the following question carefully and reason step by step. " * 5
    prompts = [template + question(i, words=30) for i in range(60)]
    prompts[31] = prompts[10] + " please"
    assert [(k.train, k.test) for k in find_leaks(prompts, halves(60)).pairs] == [(10, 31)]


@given(st.lists(st.text(alphabet="ab ", max_size=30), max_size=12))
def test_equal_texts_across_the_split_are_always_found(prompts: list[str]) -> None:
    test = halves(len(prompts))
    normal = [" ".join(text.split()) for text in prompts]
    shared = set(np.array(normal, object)[test]) & set(np.array(normal, object)[~test])
    found = find_leaks(prompts, test).test_prompts
    assert found >= sum(1 for t, side in zip(normal, test, strict=True) if side and t in shared)


def test_the_report_shows_examples_and_is_json() -> None:
    report = find_leaks([question(1), question(1) + " so"], halves(2))
    assert "1 test prompts have a near-duplicate in train" in str(report)
    assert json.loads(json.dumps(report.to_dict()))["examples"][0]["train"] == question(1)[:200]


LEAKY = [f"{question(i)}" for i in range(40)] + [f"{question(i)} now" for i in range(40)]


@pytest.mark.parametrize("side", ["train", "test", "drop"])
def test_leaks_are_gone_once_moved(side: str) -> None:
    made = make_split(LEAKY, ["f"] * 80, leaks_to=side)  # type: ignore[arg-type]
    kept = np.flatnonzero(made.train | made.test)
    assert made.leaks.pairs and made.moved
    assert find_leaks([LEAKY[i] for i in kept], made.test[kept]).pairs == ()
    assert not (made.train & made.test).any()


def test_leaks_are_only_reported_unless_asked_to_move() -> None:
    made = make_split(LEAKY, ["f"] * 80)
    assert made.leaks.pairs and not made.moved and (made.train | made.test).all()


def test_moving_to_test_leaves_no_prompt_out() -> None:
    made = make_split(LEAKY, ["f"] * 80, leaks_to="test")
    assert (made.train ^ made.test).all()


def test_a_family_split_names_what_it_held_out() -> None:
    families = ["a"] * 40 + ["b"] * 40
    made = make_split([question(i) for i in range(80)], families, kind="families")
    assert len(made.held_out) == 1
    assert made.to_dict()["held_out_families"] == list(made.held_out)


def test_family_labels_fall_back_to_the_task() -> None:
    prompts = ("s", "s"), ("t", "t"), ("c", None)
    assert family_labels(*prompts) == ("s/c", "s/t")
    assert family_labels(*prompts, by="task") == ("s/t", "s/t")
    assert family_labels(*prompts, by="source") == ("s", "s")


def test_thousands_of_copies_cost_a_chain_of_pairs() -> None:
    prompts = [question(1)] * 3000
    started = time.process_time()
    report = find_leaks(prompts, halves(3000))
    assert len(report.pairs) < 3000 and len(report.groups) == 1
    assert time.process_time() - started < 10
