"""Checkpoints on disk: written whole, verified at load, refused with the reason."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from xrouter_lg.checkpoints.folder import read_manifest, verify, write_checkpoint
from xrouter_lg.checkpoints.identity import check_base, slot_token_ids, weights_digest
from xrouter_lg.checkpoints.manifest import CheckpointError, Manifest
from xrouter_lg.checkpoints.parts import BaseIdentity, CardStats, DialPoint, LanguageModel
from xrouter_lg.errors import PolicyConfigError

BASE = BaseIdentity("base", "aa" * 32, "bb" * 32, 30, 576)


def manifest() -> Manifest:
    cards = tuple(
        CardStats(name, f"line of {name}", 0.5, 1.0, 200.0, 0.001, {"input": "1", "output": "2"})
        for name in ("small", "large")
    )
    dial = tuple(
        DialPoint(weight, quality, cost, 0.5)
        for weight, quality, cost in ((0.0, 0.9, 3.0), (0.3, 0.88, 2.0), (2.0, 0.7, 1.0))
    )
    return Manifest(
        kind="slots",
        language_model=LanguageModel(BASE, "merged"),
        cards=cards,
        c_ref_usd=0.003,
        best_fixed="large",
        dial=dial,
    )


ALONE = {
    "file": "family_head.safetensors",
    "families": ["sums", "poems"],
    "cards": ["small", "large"],
    "share": 1.0,
    "known_low": 0.5,
    "known_high": 0.7,
}


def weights(folder: Path) -> None:
    folder.joinpath("model.safetensors").write_bytes(b"weights")
    folder.joinpath("config.json").write_text("{}")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    write_checkpoint(tmp_path / "checkpoint", manifest(), weights)
    return tmp_path / "checkpoint"


def edit(folder: Path, **changes: object) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_manifest_comes_back_as_it_was_written(tmp_path: Path) -> None:
    written = write_checkpoint(tmp_path / "c", manifest(), weights)

    assert verify(tmp_path / "c") == written
    assert set(written.files) == {"model.safetensors", "config.json"}


def test_writing_replaces_a_checkpoint_and_leaves_nothing_else(checkpoint: Path) -> None:
    def other(folder: Path) -> None:
        folder.joinpath("model.safetensors").write_bytes(b"new weights")

    write_checkpoint(checkpoint, manifest(), other)

    assert not checkpoint.joinpath("config.json").exists()
    assert [path.name for path in checkpoint.parent.iterdir()] == ["checkpoint"]
    verify(checkpoint)


@pytest.mark.parametrize(
    "there",
    [
        {"thesis.txt": "years of work"},
        {"manifest.json": json.dumps({"name": "an app of somebody's"}), "app.js": "1"},
        {"manifest.json": "{", "app.js": "1"},
    ],
)
def test_a_folder_of_something_else_is_never_replaced(
    there: dict[str, str], tmp_path: Path
) -> None:
    for name, text in there.items():
        tmp_path.joinpath(name).write_text(text)
    with pytest.raises(CheckpointError, match=r"no checkpoint; name a folder of its own"):
        write_checkpoint(tmp_path, manifest(), weights)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == there


def test_a_file_is_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "notes"
    path.write_text("years of work")
    with pytest.raises(CheckpointError, match=r"notes' is a file; name a folder of its own"):
        write_checkpoint(path, manifest(), weights)
    assert path.read_text() == "years of work"


def test_an_empty_folder_and_a_damaged_checkpoint_are_written_to(checkpoint: Path) -> None:
    checkpoint.joinpath("manifest.json").write_text("{")
    empty = checkpoint.parent / "empty"
    empty.mkdir()
    for folder in (checkpoint, empty):
        write_checkpoint(folder, manifest(), weights)
        verify(folder)


def test_a_failed_write_leaves_the_old_checkpoint_alone(checkpoint: Path) -> None:
    def broken(folder: Path) -> None:
        weights(folder)
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_checkpoint(checkpoint, manifest(), broken)

    assert [path.name for path in checkpoint.parent.iterdir()] == ["checkpoint"]
    verify(checkpoint)


def test_a_folder_without_a_manifest_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no checkpoint in .*manifest.json"):
        read_manifest(tmp_path)


def test_damaged_weights_are_refused_by_name(checkpoint: Path) -> None:
    checkpoint.joinpath("model.safetensors").write_bytes(b"other")

    with pytest.raises(CheckpointError, match=r"'model.safetensors' has sha256 .* copy it again"):
        verify(checkpoint)


def test_a_missing_file_is_refused_by_name(checkpoint: Path) -> None:
    checkpoint.joinpath("config.json").unlink()

    with pytest.raises(CheckpointError, match=r"lacks its file 'config.json'"):
        verify(checkpoint)


def test_a_manifest_can_not_point_outside_its_folder(checkpoint: Path) -> None:
    edit(checkpoint, files={"../secret.safetensors": "00"})

    with pytest.raises(CheckpointError, match="lacks its file"):
        verify(checkpoint)


def test_other_prompts_are_refused_and_told_how_to_go_on(checkpoint: Path) -> None:
    model = asdict(LanguageModel(BASE, "merged", "0123456789abcdef"))
    edit(checkpoint, language_model=model)

    with pytest.raises(CheckpointError, match=r"hash 0123456789abcdef.*Train again"):
        verify(checkpoint)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"schema_version": 99}, "schema version 99"),
        ({"schema_version": 2}, "schema version 2; this xrouter_lg reads 3. Train again"),
        ({"cards": []}, "no card"),
        ({"cards": [{"name": "small"}]}, "lacks or misspells"),
        ({"c_ref_usd": 0.0}, "unit above 0"),
        ({"language_model": {"base": None}}, "lacks or misspells"),
        ({"kind": "oracle"}, "kind is 'oracle'; known: head, slots, cascade, tools"),
        ({"kind": "tools"}, "kind 'tools' lacks tools"),
        ({"kind": "head"}, "kind 'head' lacks family_head"),
        ({"cascade": {"file": "answers.safetensors", "turns": 3}}, "'slots' never reads cascade"),
        ({"family_head": ALONE}, "never read; write it as kind 'head'"),
    ],
)
def test_a_bad_manifest_is_refused(checkpoint: Path, changes: dict[str, object], said: str) -> None:
    edit(checkpoint, **changes)

    with pytest.raises(CheckpointError, match=said):
        verify(checkpoint)


def test_broken_json_is_refused(checkpoint: Path) -> None:
    checkpoint.joinpath("manifest.json").write_text("{")

    with pytest.raises(CheckpointError, match="can't be read"):
        verify(checkpoint)


def test_another_base_is_refused_by_its_weights(tmp_path: Path) -> None:
    tmp_path.joinpath("model.safetensors").write_bytes(b"weights")
    found = weights_digest(tmp_path)

    with pytest.raises(CheckpointError, match=rf"weights differ: '.*' has {found[:12]}"):
        check_base(manifest(), tmp_path)
    model = LanguageModel(replace(BASE, sha256=found), "adapter")
    check_base(replace(manifest(), language_model=model), tmp_path)


def test_a_quality_target_is_looked_up_on_the_dial() -> None:
    assert manifest().weight_for_quality(0.97) == 0.3
    assert manifest().weight_for_quality(1.0) == 0.0
    assert manifest().weight_for_quality(0.1) == 2.0


def test_the_version_names_weights_and_statistics(checkpoint: Path) -> None:
    first = read_manifest(checkpoint).version
    edit(checkpoint, metrics={"gain": 1.0})
    assert read_manifest(checkpoint).version == first

    edit(checkpoint, c_ref_usd=0.5)
    assert read_manifest(checkpoint).version != first


def test_a_vocabulary_without_the_slots_is_refused() -> None:
    class Letters:
        def encode(self, text: str, add_special_tokens: bool) -> list[int]:
            return [ord(char) for char in text]

    with pytest.raises(PolicyConfigError, match="is 2 tokens"):
        slot_token_ids(Letters())
