"""Pool files: what is read, what is refused, and what happens when a file changes."""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from xrouter_lg.errors import PoolError
from xrouter_lg.pool import file as pool_file
from xrouter_lg.pool.file import PoolFile
from xrouter_lg.pool.pool import ModelPool

GOOD = """
default: large
models:
  - name: small
    model: openai:qwen2.5-0.5b
    base_url: http://127.0.0.1:8101/v1
    api_key_env: LOCAL_KEY
    price: {input: 0.02, cached_input: 0.01, output: 0.06}
    context_window: 4096
    max_output_tokens: 1024
    capabilities: [tools, structured_output]
    description: short answers, simple facts
    timeout_s: 30
  - name: large
    model: m
    base_url: http://127.0.0.1:8102/v1
"""


def opened(path: Path) -> PoolFile[ModelPool]:
    return PoolFile(path, lambda data, file: ModelPool.from_dict(data, source=file))


def one_card(name: str = "small", **fields: Any) -> str:
    card = {"name": name, "model": "m", "base_url": "http://127.0.0.1:1/v1", **fields}
    return yaml.safe_dump({"models": [card]})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pool.yaml"


def read(path: Path, text: str) -> ModelPool:
    path.write_text(text, encoding="utf-8")
    return ModelPool.from_yaml(path)


# --- reading -------------------------------------------------------------------------------


def test_the_example_of_the_design_is_read_as_written(path: Path) -> None:
    pool = read(path, GOOD)
    small = pool["small"]
    assert (pool.default, pool.names) == ("large", ("small", "large"))
    assert (small.context_window, small.max_output_tokens, small.timeout_s) == (4096, 1024, 30)
    assert small.capabilities == {"tools", "structured_output"}
    assert small.effective_price is not None
    assert small.effective_price.to_dict() == {
        "input": "0.02",
        "cached_input": "0.01",
        "output": "0.06",
    }


def test_a_file_may_be_given_as_text_or_path(path: Path) -> None:
    path.write_text(GOOD)
    assert ModelPool.from_yaml(str(path)).names == ModelPool.from_yaml(path).names


def test_a_value_left_empty_is_a_value_left_out(path: Path) -> None:
    assert read(path, one_card(context_window=None, price=None))["small"].context_window is None


def test_text_of_any_script_is_read_as_utf8(path: Path) -> None:
    assert read(path, one_card(description="短い答え"))["small"].description == "短い答え"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty; it needs `models:`"),
        ("# nothing but a comment\n", "is empty"),
        ("just text", "a pool is a mapping with `models:`, not str"),
        ("[1, 2]", "a pool is a mapping with `models:`, not list"),
        ("models:", "`models` is of type NoneType; it must be a list with at least one card"),
        ("models: []", r"`models` is \[\]; it must be a list with at least one card"),
        ("models: {name: a}", "`models` is of type dict; it must be a list"),
        ("models: small", "`models` is of type str; it must be a list"),
        ("models: [small]", r"models\[0\] is 'small'; it must be a mapping"),
        ("models: [{model: m}]", r"models\[0\] has no `name`"),
        ("models: [{name: a}]", r"models\[0\] has no `model`"),
        ("models: [{name: , model: m}]", r"models\[0\] has no `name`"),
        ("models: [{name: a, model: }]", r"models\[0\] has no `model`"),
        ("models: [{name: a, model: 'openai:b', modle: c}]", "'modle'; did you mean 'model'"),
        ("models: [{name: a, model: 'openai:b', zzz: c}]", "'zzz'; known: name, model"),
        ("models: [{name: a, model: 'openai:b', 1: c}]", "unknown key 1"),
        ("defualt: a\nmodels: [{name: a, model: 'openai:b'}]", "did you mean 'default'"),
        ("default: z\nmodels: [{name: a, model: 'openai:b'}]", "default is 'z'"),
        ("models: [{name: a, model: b}]", "names no provider"),
        ("models: [{name: 7, model: 'openai:b'}]", "a card's name is 7; it must be text"),
        ("models: [{name: a, model: 'openai:b', params: 3}]", "params must be a mapping"),
        ("models: [{name: a, model: 'openai:b', capabilities: 3}]", "capabilities is 3"),
        ("models: [{name: a, model: 'openai:b', capabilities: [x]}]", "unknown capability 'x'"),
        ("models: [{name: a, model: 'openai:b', price: {input: .nan, output: 1}}]", "price.input"),
        ("models: [{name: a, model: 'openai:b', price: {input: yes, output: 1}}]", "is True"),
        ("models: [{name: a, model: 'openai:b', api_key_env: 12345}]", "NAME of an environment"),
        ("on_truncated: drop\nmodels: [{name: a, model: 'openai:b'}]", "on_truncated is 'drop'"),
        (
            "models: [{name: a.b, model: 'openai:b'}, {name: A_B, model: 'openai:b'}]",
            "two cards are named 'a_b'",
        ),
    ],
)
def test_a_bad_file_is_refused_with_its_path_and_what_to_do(
    path: Path, text: str, message: str
) -> None:
    with pytest.raises(PoolError, match=message) as caught:
        read(path, text)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "models: [",
        "models:\n\t- name: a",
        "a: b: c",
        "models: [{name: 2026-13-45}]",
        "x: !!python/object/apply:os.system ['true']",
        "[" * 700,
        "\x00",
    ],
)
def test_what_is_no_yaml_is_refused_as_such(path: Path, text: str) -> None:
    with pytest.raises(PoolError, match="is not YAML"):
        read(path, text)


def test_a_syntax_error_is_told_by_line_and_column(path: Path) -> None:
    with pytest.raises(PoolError, match="line 2, column 19: mapping values"):
        read(path, "models:\n  - name: a, model: b\n")


def test_a_syntax_error_does_not_repeat_the_line_where_a_key_may_stand(path: Path) -> None:
    with pytest.raises(PoolError) as caught:
        read(path, "models:\n  - api_key_env: sk-planted: x\n")
    assert "planted" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_bytes_that_are_no_utf8_are_refused(path: Path) -> None:
    path.write_bytes(b"models: \xff\xfe")
    with pytest.raises(PoolError, match="is not YAML"):
        ModelPool.from_yaml(path)


def test_a_missing_file_is_refused_with_its_path(path: Path) -> None:
    with pytest.raises(PoolError, match=r"can't read the pool file .*pool.yaml: No such file"):
        ModelPool.from_yaml(path)


def test_a_folder_is_no_pool_file(tmp_path: Path) -> None:
    with pytest.raises(PoolError, match="can't read the pool file"):
        ModelPool.from_yaml(tmp_path)


def test_the_order_of_keys_in_the_file_does_not_change_the_fingerprint(path: Path) -> None:
    data = yaml.safe_load(GOOD)
    turned = {
        "models": [dict(reversed(card.items())) for card in data["models"]],
        "default": data["default"],
    }
    text = yaml.safe_dump(turned, sort_keys=False)
    assert read(path, GOOD).fingerprint == read(path, text).fingerprint


_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(["openai:m", "a", "http://127.0.0.1/v1", "tools"])
)
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=8) | st.integers(), inner, max_size=3)
    ),
    max_leaves=6,
)
_KEYS = st.sampled_from(
    [
        "name",
        "model",
        "base_url",
        "api_key_env",
        "price",
        "context_window",
        "max_output_tokens",
        "capabilities",
        "description",
        "timeout_s",
        "max_retries",
        "params",
        "zzz",
    ]
)


@given(
    st.dictionaries(_KEYS, _VALUES, max_size=6).map(
        lambda fields: {"name": "a", "model": "openai:m", **fields}
    )
)
def test_whatever_a_card_holds_it_is_taken_or_a_pool_error(fields: dict[str, Any]) -> None:
    try:
        pool = ModelPool.from_dict({"models": [fields]})
    except PoolError:
        return
    assert len(pool.fingerprint) == 16


@given(_VALUES)
def test_whatever_a_file_holds_it_is_a_pool_or_a_pool_error(data: Any) -> None:
    try:
        pool = ModelPool.from_dict(data)
    except PoolError:
        return
    assert len(pool) > 0


# --- live reload ---------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(pool_file, "time", clock)
    return clock


def rewrite(path: Path, text: str) -> None:
    """Change a file so that its time differs too, however fast the test runs."""
    stamp = path.stat().st_mtime_ns if path.exists() else 0
    path.write_text(text)
    os.utime(path, ns=(stamp + 10**9, stamp + 10**9))


def test_a_changed_file_is_taken_over(path: Path, clock: Clock) -> None:
    pool = read(path, one_card("a"))
    rewrite(path, one_card("b"))
    clock.now += 1.0
    assert pool.current().names == ("b",)


def test_the_old_pool_stays_as_it_was_for_requests_under_way(path: Path, clock: Clock) -> None:
    pool = read(path, one_card("a"))
    rewrite(path, one_card("b"))
    clock.now += 1.0
    pool.current()
    assert pool.names == ("a",)


def test_a_newer_pool_finds_the_newest_too(path: Path, clock: Clock) -> None:
    pool = read(path, one_card("a"))
    rewrite(path, one_card("b"))
    clock.now += 1.0
    newer = pool.current()
    rewrite(path, one_card("c"))
    clock.now += 1.0
    assert newer.current().names == pool.current().names == ("c",)


def test_an_unchanged_file_gives_the_same_pool(path: Path, clock: Clock) -> None:
    pool = read(path, one_card("a"))
    clock.now += 5.0
    assert pool.current() is pool


def test_the_fingerprint_changes_when_only_a_price_does(path: Path, clock: Clock) -> None:
    pool = read(path, one_card(price={"input": 1, "output": 2}))
    rewrite(path, one_card(price={"input": 1, "output": 3}))
    clock.now += 1.0
    assert pool.current().fingerprint != pool.fingerprint


def test_within_a_second_the_file_is_not_looked_at(path: Path, clock: Clock) -> None:
    pool = read(path, one_card("a"))
    rewrite(path, one_card("b"))
    clock.now += 0.99
    assert pool.current().names == ("a",)


def test_it_is_looked_at_once_a_second_however_many_requests_come(
    path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = read(path, one_card("a"))
    looks: list[float] = []
    real = PoolFile._read_stamp

    def counted(self: PoolFile) -> tuple[int, int] | None:
        looks.append(clock.now)
        return real(self)

    monkeypatch.setattr(PoolFile, "_read_stamp", counted)
    for _ in range(40):
        clock.now += 0.125  # five seconds in all
        for _ in range(10):
            pool.current()
    assert len(looks) == 5


def test_without_reload_a_changed_file_changes_nothing(path: Path, clock: Clock) -> None:
    path.write_text(one_card("a"))
    pool = ModelPool.from_yaml(path, reload=False)
    rewrite(path, one_card("b"))
    clock.now += 10.0
    assert pool.current() is pool


BROKEN = ["models: [", "", one_card("a", context_window=-1), "models: [{name: 2026-13-45}]"]


@pytest.mark.parametrize("text", BROKEN)
def test_a_broken_file_keeps_the_old_pool(path: Path, clock: Clock, text: str) -> None:
    path.write_text(one_card("a"))
    file = opened(path)
    pool = file.current()
    rewrite(path, text)
    clock.now += 1.0
    assert file.current() is pool
    assert file.last_error is not None
    assert str(path) in file.last_error


def test_a_broken_file_is_logged_once_with_the_reason(
    path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    pool = read(path, one_card("a"))
    rewrite(path, one_card("a", context_window=-1))
    with caplog.at_level(logging.WARNING, logger="xrouter_lg.pool.file"):
        for _ in range(3):
            clock.now += 1.0
            pool.current()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "old pool kept" in caplog.text
    assert "context_window is -1" in caplog.text


def test_a_reload_that_fails_in_an_unforeseen_way_keeps_the_old_pool(
    path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.write_text(one_card("a"))
    file = opened(path)
    rewrite(path, one_card("b"))
    monkeypatch.setattr(ModelPool, "from_dict", lambda *_, **__: 1 / 0)
    clock.now += 1.0
    assert file.current().names == ("a",)
    assert file.last_error == "division by zero"


def test_a_file_that_is_mended_is_taken_over_and_the_error_forgotten(
    path: Path, clock: Clock
) -> None:
    path.write_text(one_card("a"))
    file = opened(path)
    rewrite(path, "models: [")
    clock.now += 1.0
    file.current()
    rewrite(path, one_card("c"))
    clock.now += 1.0
    assert file.current().names == ("c",)
    assert file.last_error is None


def test_a_deleted_file_keeps_the_old_pool_and_says_so(path: Path, clock: Clock) -> None:
    path.write_text(one_card("a"))
    file = opened(path)
    path.unlink()
    clock.now += 1.0
    assert file.current().names == ("a",)
    assert file.last_error is not None
    assert "No such file" in file.last_error


def test_a_file_that_comes_back_unchanged_clears_the_error(path: Path, clock: Clock) -> None:
    path.write_text(one_card("a"))
    stamp = path.stat().st_mtime_ns
    file = opened(path)
    path.unlink()
    clock.now += 1.0
    file.current()
    path.write_text(one_card("a"))
    os.utime(path, ns=(stamp, stamp))
    clock.now += 1.0
    assert file.current().names == ("a",)
    assert file.last_error is None


def test_many_threads_meet_only_whole_pools_while_the_file_changes(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.write_text(one_card("a0"))
    pool = ModelPool.from_yaml(path)
    monkeypatch.setattr(pool_file, "CHECK_EVERY_S", 0.0)
    pool._source._next_look = 0.0  # type: ignore[union-attr]
    seen: set[str] = set()
    failures: list[BaseException] = []
    stop = threading.Event()

    def ask() -> None:
        try:
            while not stop.is_set():
                current = pool.current()
                seen.add(current.names[0])
                assert current.default == current.names[0]
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(1, 12):
        rewrite(path, one_card(f"a{number}") if number % 3 else "models: [")
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert pool.current().names == ("a11",)
    assert seen <= {f"a{number}" for number in range(12)}


def test_a_slow_look_by_one_thread_holds_up_no_other(
    path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = read(path, one_card("a"))
    looking, go_on = threading.Event(), threading.Event()
    real = PoolFile._load

    def slow(self: PoolFile) -> ModelPool:
        looking.set()
        assert go_on.wait(10)
        return real(self)

    monkeypatch.setattr(PoolFile, "_load", slow)
    rewrite(path, one_card("b"))
    clock.now += 1.0
    thread = threading.Thread(target=pool.current)
    thread.start()
    assert looking.wait(10)
    clock.now += 1.0
    assert pool.current().names == ("a",)
    go_on.set()
    thread.join()
    assert pool.current().names == ("b",)
