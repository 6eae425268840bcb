"""Checkpoints that were damaged or made to do harm: a CheckpointError, whatever is wrong."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langchain_core.messages import HumanMessage
from safetensors.numpy import load_file, save_file

from tests.support.flat_heads import flat_head, write_head
from xrouter_lg import ModelCard, ModelPool, RouteRequest
from xrouter_lg.checkpoints.cascade_model import ANSWERS_FILE
from xrouter_lg.checkpoints.family_head import HEAD_FILE
from xrouter_lg.checkpoints.folder import MANIFEST_FILE
from xrouter_lg.checkpoints.identity import sha256_of
from xrouter_lg.checkpoints.manifest import CheckpointError
from xrouter_lg.policies.checkpoints import load_policy
from xrouter_lg.policies.resolve import resolve_policy

POOL = ModelPool([ModelCard(name=name, model=f"openai:{name}") for name in ("a", "b")])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    head = flat_head(("a", "b"), (0.3, 0.7), np.eye(2) * 0.01)
    write_head(tmp_path / "checkpoint", head, (0.3, 0.7), (1e-4, 1e-3))
    return tmp_path / "checkpoint"


def resealed(folder: Path, change: Callable[[dict[str, Any]], object] | None = None) -> Path:
    """The manifest changed, and its digests those of the files as they are now."""
    path = folder / MANIFEST_FILE
    data = json.loads(path.read_text())
    data["files"] = {name: sha256_of(folder / name) for name in data["files"]}
    if change is not None:
        change(data)
    path.write_text(json.dumps(data))
    return folder


def refused(folder: Path) -> None:
    with pytest.raises(CheckpointError) as error:
        load_policy(folder)
    assert len(str(error.value)) < 1_000


HEADERS = {
    "empty": b"",
    "a word": b"hello",
    "a length beyond the file": struct.pack("<Q", 2**40) + b"{}",
    "a length of everything": struct.pack("<Q", 2**64 - 1) + b"{}",
    "no JSON": struct.pack("<Q", 4) + b"nope",
    "a list": struct.pack("<Q", 2) + b"[]",
    "deep": struct.pack("<Q", 100_000) + b"[" * 100_000,
    "pickle": b"\x80\x04\x95\x1a\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix",
}


def lying(**entry: Any) -> bytes:
    header = json.dumps({"quality_F_M": {"dtype": "F32", "shape": [2, 2], **entry}}).encode()
    return struct.pack("<Q", len(header)) + header + b"\0" * 16


LIES = {
    "an offset behind the end": lying(data_offsets=[0, 2**40]),
    "an offset before the start": lying(data_offsets=[-16, 0]),
    "a shape beyond the data": lying(shape=[2**31, 2**31], data_offsets=[0, 16]),
    "a shape of nothing": lying(shape=[0, 2**62], data_offsets=[0, 16]),
    "a type that is none": lying(dtype="OBJECT", data_offsets=[0, 16]),
    "no offsets": lying(),
}


@pytest.mark.parametrize("what", [*HEADERS, *LIES])
def test_a_file_whose_header_lies_is_refused(what: str, folder: Path) -> None:
    (folder / HEAD_FILE).write_bytes({**HEADERS, **LIES}[what])
    refused(resealed(folder))


def arrays_of(folder: Path) -> dict[str, Any]:
    return load_file(folder / HEAD_FILE)


CHANGES: dict[str, Callable[[Any], Any]] = {
    "one row more": lambda array: np.concatenate([array, array[:1]]),
    "one row less": lambda array: array[:-1],
    "nothing": lambda array: array[:0],
    "one axis more": lambda array: array[None],
    "flat": lambda array: array.reshape(-1) if array.ndim > 1 else array[None],
    "bytes": lambda array: array.astype(np.int8 if array.dtype.kind == "f" else "f4"),
    "no number": lambda array: np.full(array.shape, math.nan, dtype=np.float32),
    "endless": lambda array: np.full(array.shape, -math.inf, dtype=np.float32),
}
READ = (
    *("buckets_K", "idf_K", "basis_K_D", "weight_F_P", "bias_F", "block_B", "share_F"),
    *("quality_F_M", "mean_F_M", "root_F_M_M", "cost_ratio_F_M", "length", "reach"),
)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", READ)
def test_an_array_of_another_shape_or_type_is_refused(name: str, change: str, folder: Path) -> None:
    arrays = arrays_of(folder)
    arrays[name] = np.ascontiguousarray(CHANGES[change](arrays[name]))
    save_file(arrays, folder / HEAD_FILE)
    refused(resealed(folder))


@pytest.mark.parametrize("name", READ)
def test_an_array_that_is_missing_is_refused(name: str, folder: Path) -> None:
    arrays = arrays_of(folder)
    del arrays[name]
    save_file(arrays, folder / HEAD_FILE)
    refused(resealed(folder))


def paths(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield at
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            yield from paths(item, (*at, key))


WRONG = (None, True, -1, 10**400, "x", "x" * 10_000, [], {}, [[]], {"a": {}}, 1e308, ["\ud800"])


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_manifest_with_any_field_changed_is_read_or_refused(
    folder: Path, data: st.DataObject
) -> None:
    path = folder / MANIFEST_FILE
    whole = path.read_text()
    try:
        manifest = json.loads(whole)
        *above, last = data.draw(st.sampled_from([at for at in paths(manifest) if at]))
        holder = manifest
        for key in above:
            holder = holder[key]
        if data.draw(st.booleans()):
            holder[last] = data.draw(st.sampled_from(WRONG))
        else:
            del holder[last]
        path.write_text(json.dumps(manifest))
        said = str(folder)
        try:
            assert load_policy(folder).version
        except CheckpointError as error:
            said = str(error)
        assert str(folder) in said
    finally:
        path.write_text(whole)


@pytest.mark.parametrize(
    "text", ["", "[]", "nope", "[" * 100_000, '{"schema_version": 3}', "\x00", "9" * 10_000, "NaN"]
)
def test_a_manifest_that_is_none_is_refused(text: str, folder: Path) -> None:
    (folder / MANIFEST_FILE).write_text(text)
    refused(folder)


@pytest.mark.parametrize("name", ["../secrets.safetensors", "/etc/passwd", "other.safetensors"])
def test_a_head_that_lies_elsewhere_is_refused(name: str, folder: Path) -> None:
    refused(resealed(folder, lambda data: data["family_head"].update(file=name)))
    refused(resealed(folder, lambda data: data["files"].update({name: "0" * 64})))


def test_a_field_of_any_length_is_named_in_a_short_error(folder: Path) -> None:
    refused(resealed(folder, lambda data: data["cards"][0].update({"[" * 3_000: 1})))


@pytest.mark.parametrize("share", [0, 7, 8, 100, -1])
def test_a_truncated_head_is_refused(share: int, folder: Path) -> None:
    raw = (folder / HEAD_FILE).read_bytes()
    (folder / HEAD_FILE).write_bytes(raw[:share])
    refused(folder)
    refused(resealed(folder))


def test_a_cascade_whose_answers_are_no_answers_is_refused(folder: Path) -> None:
    save_file({"right_F_Q_M": np.zeros((2, 2, 2), dtype=np.int8)}, folder / ANSWERS_FILE)

    def as_cascade(data: dict[str, Any]) -> None:
        data["kind"] = "cascade"
        data["cascade"] = {"file": ANSWERS_FILE, "turns": 2}
        data["files"][ANSWERS_FILE] = sha256_of(folder / ANSWERS_FILE)

    refused(resealed(folder, as_cascade))


async def test_the_head_that_was_not_touched_is_served(folder: Path) -> None:
    policy = resolve_policy(resealed(folder), POOL)
    proposal = await policy.propose(RouteRequest([HumanMessage("hello")]), list(POOL))
    assert set(proposal.probabilities) == {"a", "b"}
