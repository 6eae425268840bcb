"""What is seen of requests."""

from __future__ import annotations

import json

import numpy as np
import pytest

from xrouter_lg.value.features import REACH, Features

PROMPTS = [f"add {n} to the number {n + 1}" for n in range(20)] + [
    f"write a poem about winter {n}" for n in range(20)
]
TOOL = {"name": "get_price", "description": "Price of a thing.", "parameters": {}}


def test_a_prompts_own_words_do_not_make_it_known() -> None:
    features = Features.of([*PROMPTS, "quelle heure heure heure heure"])
    shares = features.known_shares()
    assert len(shares) == 41
    assert shares[-1] == 0.0 and min(shares[:-1]) > 0.4
    assert all(0.0 <= share <= 1.0 for share in shares)


def test_a_request_that_comes_again_makes_no_word_known() -> None:
    once = Features.of([*PROMPTS, "quelle heure"])
    thrice = Features.of([*PROMPTS, "quelle heure"] * 3)
    assert thrice.known_K.tolist() == once.known_K.tolist()
    assert thrice.known_shares() == pytest.approx(once.known_shares() * 3)


def test_requests_lie_near_others_with_their_words() -> None:
    plane = Features.of(PROMPTS).plane_N_P
    sums, poems = plane[:20].mean(0), plane[20:].mean(0)
    gap = ((plane - sums) ** 2).sum(1) - ((plane - poems) ** 2).sum(1)
    assert (gap[:20] < 0).all() and (gap[20:] > 0).all()


def test_longer_requests_lie_apart_by_their_length_alone() -> None:
    features = Features.of(["so it is " * n for n in (1, 2, 4, 8, 16, 4000)])
    assert features.tools is None
    length = features.plane_N_P[:, -1]
    assert (np.diff(length) > 0).all() and abs(length).max() <= REACH
    many = Features.of([*("so it is " for _ in range(60)), "so it is " * 4000])
    assert many.plane_N_P[-1, -1] == pytest.approx(REACH), "clipped"


def test_words_in_one_request_are_not_known() -> None:
    assert len(Features.of(["one two", "three four"]).known_K) == 0
    assert len(Features.of(["one two", "one two five"]).known_K) == 3  # one, two, and the pair
    assert len(Features.of(["one two", "one two"]).known_K) == 0
    known = Features.of(PROMPTS).known_K
    assert (np.diff(known) > 0).all()


def test_tools_widen_the_plane_where_any_request_has_some() -> None:
    plain = Features.of(PROMPTS).plane_N_P
    tools = Features.of([f"{text} Tools: {json.dumps([TOOL])}" for text in PROMPTS[:20]] + PROMPTS)
    assert tools.tools is not None
    width = tools.basis_K_D.shape[1] + 1 + tools.tools.scaled_N_T.shape[1]
    assert tools.plane_N_P.shape == (60, width)
    assert plain.shape[1] == Features.of(PROMPTS).basis_K_D.shape[1] + 1
    with_tools, without = tools.tools.scaled_N_T[:20], tools.tools.scaled_N_T[20:]
    assert abs(with_tools.mean(0) - without.mean(0)).max() > 0.3
