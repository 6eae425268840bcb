"""Families: found from words, labels as a hint, numbers that stay."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.worlds import draw, of_grid
from xrouter_lg.value.families import find_families
from xrouter_lg.value.features import Features
from xrouter_lg.value.grouping import Partition, group, one_partition

KIND = np.arange(240) % 2
RNG = np.random.default_rng(0)
PROMPTS = [
    f"add the numbers {a} and {b} up" if kind == 0 else f"write a poem about winter {a} {b}"
    for kind, (a, b) in zip(KIND, RNG.integers(10, 99, (240, 2)), strict=True)
]
FEATURES = Features.of(PROMPTS)
COST = np.tile([1e-4, 1.1e-4], (240, 1))
TRUTH = np.array([[0.95, 0.2], [0.2, 0.95]])
BY_WORDS = of_grid(draw(TRUTH, KIND, 1))


def test_two_topics_are_told_apart_without_a_label() -> None:
    found = find_families(FEATURES, 2)
    assert (found == KIND).all() or (found == 1 - KIND).all()
    for own in group(FEATURES, [""] * 240, BY_WORDS, COST).partitions:
        for family in range(len(own.names)):
            assert len(set(KIND[own.family_N == family])) == 1, own.names[family]


def test_there_are_several_partitions_from_coarse_to_fine() -> None:
    found = group(FEATURES, [""] * 240, BY_WORDS, COST)
    sizes = [len(own.names) for own in found.partitions]
    assert len(sizes) == 3 and sizes == sorted(sizes) and sizes[0] < sizes[-1]
    assert found.chosen in found.tried and "words" in found.chosen
    assert all(len(set(own.names)) == len(own.names) for own in found.partitions)


def test_labels_are_used_where_they_tell_what_words_do_not() -> None:
    hidden = RNG.integers(0, 2, 240)
    labels = [("left", "right")[side] for side in hidden]
    found = group(FEATURES, labels, of_grid(draw(TRUTH, hidden, 2)), COST)
    assert "labels" in found.chosen
    assert found.partitions[0].names == ("left", "right")
    assert (found.partitions[0].family_N == hidden).all()


@pytest.mark.parametrize("seed", range(2))
def test_labels_that_are_noise_are_left_alone(seed: int) -> None:
    noise = np.random.default_rng(seed).integers(0, 6, 240)
    found = group(FEATURES, [f"label {n}" for n in noise], BY_WORDS, COST)
    assert "label" not in found.chosen
    assert {"labels", "labels and words"} <= set(found.tried)


def test_families_that_were_there_before_keep_their_numbers_and_names() -> None:
    start = Partition(("poems of mine", "sums of mine"), (1 - KIND).astype(np.int64))
    own = group(FEATURES, [""] * 240, BY_WORDS, COST, start=start).partitions[0]
    assert own.names[:2] == start.names
    assert set(KIND[own.family_N == 0]) == {1} and set(KIND[own.family_N == 1]) == {0}


def test_centres_to_start_from_decide_the_numbers() -> None:
    plane = FEATURES.plane_N_P
    centres = np.stack([plane[kind == KIND].mean(0) for kind in (0, 1)])
    assert (find_families(FEATURES, 2, centres) == KIND).all()
    assert (find_families(FEATURES, 2, centres[::-1]) == 1 - KIND).all()


def test_alike_requests_are_one_family() -> None:
    assert find_families(Features.of(["the same"] * 5), 3).tolist() == [0] * 5


def test_one_partition_goes_by_labels_and_without_them_by_words() -> None:
    told = one_partition(FEATURES, [("sums", "poems")[kind] for kind in KIND]).partitions
    assert len(told) == 1 and told[0].names == ("poems", "sums")
    (found,) = one_partition(FEATURES, [""] * 240).partitions
    assert len(found.names) > 1
    assert all(len(set(KIND[found.family_N == f])) == 1 for f in range(len(found.names)))
