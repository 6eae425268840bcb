"""Pool files that were written to do harm, or by accident: an error that says why, at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from xrouter_lg.errors import PoolError
from xrouter_lg.pool.card import ModelCard
from xrouter_lg.pool.pool import ModelPool
from xrouter_lg.yaml_text import MOST_BYTES

CARD = "name: small, model: m, base_url: 'http://127.0.0.1:1/v1'"
TEN = "[" + ", ".join(["l"] * 10) + "]"


def laughs(key: str) -> str:
    """A mapping that aliases make ten thousand million values of."""
    levels = "".join(f", {key}{i}: &b{i} [{', '.join([f'*b{i - 1}'] * 10)}]" for i in range(1, 10))
    return f"{{{key}0: &b0 {TEN}{levels}}}"


def merges() -> str:
    lines = ["a0: &a0 {" + ", ".join(f"k{i}: 1" for i in range(10)) + "}"]
    lines += [f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 10)}]}}" for i in range(1, 12)]
    return "\n".join(lines)


HOSTILE = {
    "aliases in params": f"models: [{{{CARD}, params: {laughs('x')}}}]",
    "aliases as a description": f"models: [{{{CARD}, description: {laughs('x')}}}]",
    "aliases as a name": f"models: [{{name: {laughs('x')}, model: m}}]",
    "aliases as a model": f"models: [{{name: small, model: {laughs('x')}}}]",
    "aliases as a price": f"models: [{{{CARD}, price: {laughs('input')}}}]",
    "aliases as capabilities": f"models: [{{{CARD}, capabilities: {laughs('x')}}}]",
    "aliases as cards": f"c: &c {{{CARD}}}\nmodels: [{', '.join(['*c'] * 90_000)}]",
    "merges": f"{merges()}\nmodels: [{{{CARD}}}]",
    "a merge of many": f"a: &a {{x: 1}}\nb: {{<<: [{', '.join(['*a'] * 50_000)}]}}",
    "a circle": f"models: [{{{CARD}, params: &p {{a: *p}}}}]",
    "a circle of lists": f"models: [{{{CARD}, params: {{a: &p [*p, *p]}}}}]",
    "a circle of cards": "models: &m [*m]",
    "deep lists": "models: " + "[" * 100_000,
    "deep lists in params": f"models: [{{{CARD}, params: {{a: {'[' * 300}{']' * 300}}}}}]",
    "many cards": "models:\n" + "".join(f"- {{name: c{i}, model: m}}\n" for i in range(20_000)),
    "a large file": f"models: [{{{CARD}}}] # " + "x" * MOST_BYTES,
    "a tag that runs code": "models: !!python/object/apply:os.system ['true']",
    "a tag that names a class": "models: !!python/name:os.system",
    "a tag of somebody's": f"models: !card [{{{CARD}}}]",
    "a key twice": f"models: [{{{CARD}, price: {{input: 1, output: 1, input: 0}}}}]",
    "models twice": f"models: [{{{CARD}}}]\nmodels: [{{{CARD}}}]",
    "minutes for a price": f"models: [{{{CARD}, price: {{input: 1:30, output: 1}}}}]",
    "a price beyond all money": f"models: [{{{CARD}, price: {{input: 1e400, output: 1}}}}]",
    "a price of a million digits": f"models: [{{{CARD}, price: {{input: '1e999999', output: 1}}}}]",
    "a price of nothing": f"models: [{{{CARD}, price: {{input: '1e-999999', output: 1}}}}]",
    "a window of 4000 digits": f"models: [{{{CARD}, context_window: {'9' * 4_000}}}]",
    "a window of 100000 digits": f"models: [{{{CARD}, context_window: {'9' * 100_000}}}]",
    "endless retries": f"models: [{{{CARD}, max_retries: 1000000000}}]",
    "endless patience": f"models: [{{{CARD}, timeout_s: 1.0e+300}}]",
    "no number": f"models: [{{{CARD}, timeout_s: .nan}}]",
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_pool_file_is_refused_with_a_short_reason(what: str, tmp_path: Path) -> None:
    path = tmp_path / "pool.yaml"
    path.write_text(HOSTILE[what], encoding="utf-8")
    with pytest.raises(PoolError) as refused:
        ModelPool.from_yaml(path)
    assert str(path) in str(refused.value)
    assert len(str(refused.value)) < 1_000


def test_a_key_that_stands_twice_is_named_by_its_place(tmp_path: Path) -> None:
    path = tmp_path / "pool.yaml"
    path.write_text("models:\n- name: small\n  model: m\n  name: large\n", encoding="utf-8")
    with pytest.raises(PoolError, match="line 4, column 3: the key stands here for the second"):
        ModelPool.from_yaml(path)


def test_a_merge_that_a_person_would_write_is_read(tmp_path: Path) -> None:
    path = tmp_path / "pool.yaml"
    path.write_text(
        f"models:\n- &base {{{CARD}, timeout_s: 7}}\n- <<: *base\n  name: large\n", encoding="utf-8"
    )
    assert [card.timeout_s for card in ModelPool.from_yaml(path)] == [7, 7]


@pytest.mark.parametrize(("written", "read"), [("010", "10"), ("0x10", "16"), ("1_0", "10")])
def test_a_number_is_what_it_looks_like(written: str, read: str, tmp_path: Path) -> None:
    path = tmp_path / "pool.yaml"
    path.write_text(f"models: [{{{CARD}, price: {{input: {written}, output: 1}}}}]")
    price = ModelPool.from_yaml(path)["small"].effective_price
    assert price is not None and str(price.input) == read


@pytest.mark.parametrize("value", ["1", "-1", "0", "1.5", ".5", "1e3", "1.0e+3", "-.inf", "+1"])
def test_usual_numbers_are_read_as_yaml_has_them(value: str, tmp_path: Path) -> None:
    path = tmp_path / "pool.yaml"
    path.write_text(f"models: [{{{CARD}, params: {{a: {value}}}}}]")
    assert ModelPool.from_yaml(path)["small"].params["a"] == yaml.safe_load(value)


LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=10**400, max_value=10**401),
    st.floats(),
    st.text(max_size=40),
    st.binary(max_size=10),
    st.just("x" * 10_000),
)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(LEAVES, inner, max_size=3)
)
FIELDS = st.sampled_from(
    [
        *("name", "model", "base_url", "api_key_env", "price", "context_window"),
        *("max_output_tokens", "capabilities", "description", "timeout_s", "max_retries"),
        *("params", "zz"),
    ]
)


@given(st.dictionaries(FIELDS, VALUES, max_size=4), VALUES)
def test_any_card_is_taken_or_refused_and_nothing_else(changes: dict[str, Any], rest: Any) -> None:
    card = {"name": "small", "model": "m", "base_url": "http://127.0.0.1:1/v1", **changes}
    for data in ({"models": [card]}, {"models": [card, rest]}, {"models": rest}, rest):
        said = ""
        try:
            assert ModelPool.from_dict(data).fingerprint
        except PoolError as error:
            said = str(error)
        assert len(said) < 3_000


def test_a_card_made_in_code_is_held_to_the_same() -> None:
    circle: dict[str, Any] = {}
    circle["again"] = circle
    with pytest.raises(PoolError, match="nested more than"):
        ModelCard(name="small", model="openai:m", params=circle)


@pytest.mark.parametrize("value", ["!!bool x", "!!timestamp soon", "!!int ''", "!!float ''"])
@pytest.mark.parametrize("place", ["value", "key"])
def test_a_value_that_does_not_fit_its_tag_is_a_pool_error(
    value: str, place: str, tmp_path: Path
) -> None:
    path = tmp_path / "pool.yaml"
    path.write_text(f"default: {value}\n" if place == "value" else f"{value}: 1\n")
    with pytest.raises(PoolError, match=r"is not YAML|pool\.yaml"):
        ModelPool.from_yaml(path)
