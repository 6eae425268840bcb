"""Near-duplicates across a split: what is found, and what is left in peace."""

from __future__ import annotations

import random
import time

from xrouter_lg.outcomes.near import THRESHOLD, near_duplicates

WORDS = ["river", "stone", "cloud", "lamp", "wheel", "garden", "copper", "signal", "window"]


def question(seed: int, words: int = 40) -> str:
    draw = random.Random(seed)
    return " ".join(draw.choice(WORDS) + str(draw.randrange(10_000)) for _ in range(words))


def edited(text: str, places: int) -> str:
    """Another word at so many places, far from each other."""
    words = text.split()
    for place in range(places):
        words[5 + 7 * place] = f"other{place}"
    return " ".join(words)


TRAIN = [question(i) for i in range(60)]


def test_texts_that_differ_in_case_and_blanks_are_the_same() -> None:
    found = near_duplicates(TRAIN, [question(99), f"  {TRAIN[7].upper()}\n"])
    assert found.train_N.tolist() == [-1, 7] and found.similarity_N.tolist() == [0.0, 1.0]


def test_a_planted_near_duplicate_is_found_with_its_twin() -> None:
    found = near_duplicates(TRAIN, [question(100), edited(TRAIN[23], 2), question(101)])
    assert found.train_N.tolist() == [-1, 23, -1]
    assert THRESHOLD <= found.similarity_N[1] < 1.0
    assert found.to_dict() == {"threshold": THRESHOLD, "same": 0, "near": 1, "test_prompts": 3}


def test_the_most_alike_is_named() -> None:
    nearer = edited(TRAIN[3], 1)
    assert near_duplicates([*TRAIN, nearer], [edited(TRAIN[3], 2)]).train_N.tolist() == [60]


def test_texts_that_share_a_third_of_their_words_are_not_near() -> None:
    test = [" ".join([*TRAIN[i].split()[:13], question(200 + i, 27)]) for i in range(20)]
    assert near_duplicates(TRAIN, test).to_dict()["near"] == 0


def test_what_all_prompts_have_in_common_makes_none_of_them_alike() -> None:
    rules = question(500, 300)
    train, test = ([f"{rules} {question(i, 12)}" for i in at] for at in (range(60), range(60, 90)))
    found = near_duplicates(train, [*test, f"{rules} {edited(question(4, 12), 1)} too"])
    assert found.train_N[:-1].tolist() == [-1] * 30


def test_short_prompts_are_only_near_when_they_are_equal() -> None:
    found = near_duplicates(["what is 2+2?", "hello you"], ["What is  2+2?", "hello me"])
    assert found.train_N.tolist() == [0, -1]


def test_a_side_without_prompts_has_nothing_near() -> None:
    assert near_duplicates([], TRAIN).to_dict()["near"] == 0
    assert str(near_duplicates(TRAIN, [])).startswith("0 of 0 have the text")


def test_thousands_of_copies_and_of_prompts_take_seconds() -> None:
    train = [question(1)] * 3000 + [question(i) for i in range(1000, 4000)]
    started = time.process_time()
    found = near_duplicates(train, [edited(question(i), 1) for i in range(1000, 4000)])
    assert (found.train_N >= 3000).all()
    assert time.process_time() - started < 30
