"""Every file of YAML that a user writes is read by one reader: hostile texts, for each of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.pool.test_hostile_pool import merges
from training.config.run import load_config
from training.run.preflight_trl import _deepspeed, _stage
from xrouter_lg.errors import ConfigurationError
from xrouter_lg.pool.pool import ModelPool
from xrouter_lg.verifiers import Suite
from xrouter_lg.yaml_text import MOST_BYTES, NotYamlError, parse_yaml

READERS: dict[str, Callable[[Path], Any]] = {
    "a pool": ModelPool.from_yaml,
    "verifiers": Suite.from_yaml,
    "a training config": load_config,
    "an accelerate config": _deepspeed,
}


def laughs() -> str:
    """Ten lists of ten, each of the one before: ten thousand million values."""
    lists = [f"&b{i} [{', '.join([f'*b{i - 1}'] * 10)}]" for i in range(1, 10)]
    return f"a: [&b0 [{', '.join('1' * 10)}], {', '.join(lists)}]"


HOSTILE = {
    "no bool": ("a: !!bool x", "line 1, column 4: .*'!!bool'.*leave the tag out"),
    "no bool for a key": ("!!bool x: 1", "line 1, column 1: .*leave the tag out"),
    "no int": ("a: !!int x", "line 1, column 4: .*'!!int'"),
    "no date": ("\na: 2026-13-45", "line 2, column 4: .*put a text in quotes"),
    "a tag of somebody's": ("- a\n- !card b", "line 2, column 3: the tag '!card' .*leave it out"),
    "a tag that runs code": (
        "a: !!python/object/apply:os.system ['true']",
        "'!!python/object/apply:os.system' is not known",
    ),
    "a key twice": ("a: 1\nb: 2\na: 3", "line 3, column 1: .*second time; keep one"),
    "a tab": ("a:\n\tb: 1", "line 2, column 1: .*indent with spaces"),
    "two documents": ("a: 1\n---\nb: 2", "line 2, column 1: here is a second document"),
    "an alias of nothing": ("a: *b", "line 1, column 4: found undefined alias"),
    "aliases": (laughs(), "line 1, column .*over 100,000 values"),
    "merges": (merges(), "line 5, column .*over 100,000 values|merged"),
    "many merges": (f"a: &a {{x: 1}}\nb: {{<<: [{', '.join(['*a'] * 30)}]}}", "more than 20 map"),
    "a circle": ("a: &a [1, *a]", "line 1, column 4: this stands inside itself"),
    "a circle of mappings": ("&a\nb: *a", "line .*this stands inside itself"),
    "depth": ("a: " + "[" * 150 + "]" * 150, "line 1, column .*more than 100 deep"),
    "endless depth": ("[" * 100_000, "more than 100 deep"),
    "a control character": ("a: \x01", "character 4 is none that YAML has; remove it"),
    "half a list": ("a: [1", "line 1, column 6: expected"),
    "a large file": ("# " + "x" * MOST_BYTES, "more than 500,000 bytes"),
}


@pytest.mark.parametrize("what", HOSTILE)
@pytest.mark.parametrize("reader", READERS)
def test_a_hostile_file_is_refused_by_its_place_and_with_what_to_do(
    reader: str, what: str, tmp_path: Path
) -> None:
    text, said = HOSTILE[what]
    path = tmp_path / "file.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationError, match=said) as refused:
        READERS[reader](path)
    assert str(path) in str(refused.value)
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize("reader", READERS)
def test_bytes_that_are_no_text_are_told_by_their_place(reader: str, tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    path.write_bytes(b"a: caf\xe9\n")
    with pytest.raises(ConfigurationError, match=r"file\.yaml is not YAML: byte 7 is no UTF-8"):
        READERS[reader](path)


@pytest.mark.parametrize("reader", READERS)
def test_a_file_that_is_not_there_and_a_folder_are_named(reader: str, tmp_path: Path) -> None:
    for path, why in ((tmp_path / "gone.yaml", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(ConfigurationError, match=rf"can't read the .*{path.name}: {why}.*; "):
            READERS[reader](path)


def test_a_launch_file_that_is_broken_sets_no_stage(tmp_path: Path) -> None:
    path = tmp_path / "accelerate.yaml"
    path.write_text("deepspeed_config: {zero_stage: 2}\n")
    assert _stage(path) == 2
    for text in ("- a list", "a: !!bool x", "deepspeed_config: {zero_stage: [2]}"):
        path.write_text(text)
        assert _stage(path) == 0


@pytest.mark.parametrize(
    "value", ["!!bool x", "!card x", "[1", "&a [*a]", "{a: 1, a: 2}", "\x01", "[" * 5_000]
)
def test_an_override_that_is_no_yaml_is_named(value: str, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("outcomes: x\n")
    with pytest.raises(ConfigurationError, match=r"override 'data\.sources=.*is not YAML: \w+ ?"):
        load_config(path, [f"data.sources={value}"])


def test_a_key_that_was_pasted_into_a_broken_line_is_not_repeated() -> None:
    for text in ("a: sk-planted: x", "a: !!int sk-planted", "sk-planted: 1\nsk-planted: 2"):
        with pytest.raises(NotYamlError) as refused:
            parse_yaml(text)
        assert "planted" not in str(refused.value)


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused_in_words(text: str) -> None:
    said = "read"
    try:
        parse_yaml(text)
    except NotYamlError as error:
        said = str(error)
    assert said


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(0, 10**9) | st.text(max_size=12),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(PLAIN)
def test_what_pyyaml_writes_is_read_as_pyyaml_reads_it(value: Any) -> None:
    text = yaml.safe_dump(value, allow_unicode=True)
    assert parse_yaml(text) == yaml.safe_load(text)
