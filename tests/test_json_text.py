"""JSON text keeps what was said, and every database and client takes it."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xrouter_lg.json_text import encodable, encodable_value, from_json, storable, to_json

HALF, MENDED = "cut \ud83d end", "cut � end"

CLEAN = st.text(st.characters(exclude_categories=("Cs",)))
ODD = st.text(st.characters())
LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | CLEAN
JSON = st.recursive(
    LEAVES, lambda inner: st.lists(inner) | st.dictionaries(CLEAN, inner), max_leaves=20
)
ANYTHING = st.recursive(
    LEAVES | ODD | st.floats() | st.binary() | st.decimals(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(ODD | st.integers() | st.tuples(ODD, st.integers()), inner)
        | st.tuples(inner, inner)
    ),
    max_leaves=20,
)


@given(JSON)
def test_json_comes_back_as_it_was(value: Any) -> None:
    said = from_json(to_json(value))
    assert said == _finite(value)
    assert repr(said) == repr(_finite(value)), "an integer is no float"


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, list):
        return [_finite(item) for item in value]
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return value


@given(ANYTHING)
def test_anything_becomes_json_that_can_be_sent_and_read(value: Any) -> None:
    text = to_json(value)
    assert from_json(text.encode()) == from_json(text)
    assert "NaN" not in text or "NaN" in str(value)


@pytest.mark.parametrize("number", [2**63, -(2**64), 19876543210987654321098, 10**4000])
def test_integers_stay_exact(number: int) -> None:
    assert from_json(to_json({"wei": number})) == {"wei": number}


def test_an_integer_of_more_digits_than_python_reads_becomes_text() -> None:
    assert from_json(to_json([16**5000])) == [hex(16**5000)]


def test_half_a_surrogate_pair_is_replaced_and_a_whole_one_is_its_character() -> None:
    assert encodable(HALF) == MENDED
    assert encodable("\ud83d\ude00") == "😀"
    assert from_json(to_json({HALF: [HALF, "\x00"]})) == {MENDED: [MENDED, "\x00"]}
    assert from_json('"\\ud83d"') == "\ud83d"


def test_plain_text_for_a_database_has_no_nul() -> None:
    assert storable("a\x00b\ud83d") == "ab�"


@given(ODD)
def test_encodable_text_can_be_encoded(text: str) -> None:
    mended = encodable(text)
    mended.encode()
    assert encodable(mended) == mended


def test_a_value_without_odd_text_is_the_very_same() -> None:
    value = {"a": ["é", 1, {"b": "c"}]}
    assert encodable_value(value) is value


def test_what_is_no_json_is_refused() -> None:
    with pytest.raises(ValueError, match="Expecting"):
        from_json("{'a': 1}")


class Speechless:
    def __str__(self) -> str:
        raise RuntimeError("nothing to say")


@pytest.mark.parametrize("beside", ["plain", "\ud83d"], ids=["plain", "odd"])
def test_an_object_without_a_text_is_there_by_its_kind(beside: str) -> None:
    said = from_json(to_json({"it": Speechless(), "beside": beside}))
    assert said == {"it": "<Speechless>", "beside": encodable(beside)}


def test_what_holds_itself_ends_and_what_is_deep_stays() -> None:
    circle: dict[str, Any] = {"name": "circle", "twice": []}
    circle["twice"] += [circle, circle]
    again = "<nested without end>"
    assert from_json(to_json(circle)) == {"name": "circle", "twice": [again, again]}
    deep: list[Any] = []
    for _ in range(280):
        deep = [deep]
    assert from_json(to_json(deep)) == deep
    endless: list[Any] = []
    for _ in range(5000):
        endless = [endless]
    assert again in to_json(endless)
