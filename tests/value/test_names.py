"""Names of families: telling, unique, and nobody's own words."""

from __future__ import annotations

import numpy as np

from xrouter_lg.value.names import telling_words

REFUNDS = ["please refund the order", "refund my order now", "order refund wanted"] * 4
RHYMES = ["please rhyme the verse", "rhyme my verse now", "verse rhyme wanted"] * 4
TWO = np.repeat([0, 1], 12)


def test_a_family_is_named_by_what_its_requests_have_and_others_do_not() -> None:
    refunds, rhymes = telling_words(REFUNDS + RHYMES, TWO)
    assert set(refunds.split(", ")) == {"refund", "order"}
    assert set(rhymes.split(", ")) == {"rhyme", "verse"}


def test_words_of_one_or_two_people_and_words_with_digits_never_make_a_name() -> None:
    prompts = [f"{text} ab1234 4711 k3y" for text in REFUNDS] + RHYMES
    prompts[0] += " zebedee zebedee zebedee"
    prompts[1] += " zebedee"
    said = " ".join(telling_words(prompts, TWO))
    assert "zebedee" not in said and not any(sign.isdigit() for sign in said)
    prompts[2] += " zebedee"  # now it is in three: a word like any other
    assert "zebedee" in " ".join(telling_words([*prompts[:3], *RHYMES], np.repeat([0, 1], [3, 12])))


def test_two_families_never_share_a_name() -> None:
    names = telling_words(REFUNDS * 2 + RHYMES, np.repeat([0, 1, 2], 12))
    assert len(set(names)) == 3


def test_without_words_in_common_families_are_numbered() -> None:
    assert telling_words(["one", "two", "six"], np.array([0, 1, 1])) == ("family 1", "family 2")
