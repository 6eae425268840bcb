"""What is written appears whole, or what was there before stays."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from xrouter_lg.files import whole, write_bytes, write_json


def test_a_file_that_fails_halfway_leaves_the_old_one_and_nothing_beside_it(tmp_path: Path) -> None:
    target = tmp_path / "a"
    target.write_text("old")
    with pytest.raises(UnicodeEncodeError), whole(target) as temporary:
        temporary.write_text("half of it\ud800", encoding="utf-8")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_takes_the_place_of_a_full_one(tmp_path: Path) -> None:
    target = tmp_path / "a"
    target.mkdir()
    target.joinpath("old").touch()
    with whole(target) as temporary:
        temporary.mkdir()
        temporary.joinpath("new").touch()
    assert [path.name for path in target.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_that_cannot_be_renamed_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "a"
    target.mkdir()
    rename = Path.rename

    def only_the_old(path: Path, to: Path) -> Path:
        if path.suffix == ".tmp" and ".old" not in path.suffixes:
            raise OSError(28, "disk full")
        return rename(path, to)

    monkeypatch.setattr("xrouter_lg.files._exchange", lambda one, other: False)
    monkeypatch.setattr(Path, "rename", only_the_old)
    with pytest.raises(OSError, match="disk full"), whole(target) as temporary:
        temporary.mkdir()
    assert list(tmp_path.iterdir()) == [target]


def test_what_a_killed_process_left_is_removed_by_the_next_that_writes_there(
    tmp_path: Path,
) -> None:
    code = (
        "import os, sys; from pathlib import Path; from xrouter_lg.files import whole\n"
        "with whole(Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_text('half'); os._exit(9)"
    )
    target = tmp_path / "a"
    subprocess.run([sys.executable, "-c", code, str(target)], check=False)
    (left,) = tmp_path.iterdir()
    with whole(target) as mine, whole(tmp_path / "b") as other:
        mine.touch()
        other.touch()
        assert not left.exists()
        with whole(target) as second:  # two at once leave each other alone
            second.touch()
        assert mine.exists()


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no /proc")
def test_a_file_and_its_folder_are_on_disk_before_and_after_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, os.replace

    def flushed(descriptor: int) -> None:
        done.append("flushed " + Path(os.readlink(f"/proc/self/fd/{descriptor}")).suffix)
        fsync(descriptor)

    def replaced(source: Path, target: Path) -> None:
        done.append("renamed")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(os, "replace", replaced)
    write_bytes(tmp_path / "a", b"1")
    assert done == ["flushed .tmp", "renamed", "flushed "]


def test_json_is_written_with_the_folders_above_it(tmp_path: Path) -> None:
    write_json(tmp_path / "in" / "a.json", {"a": 1})
    assert json.loads((tmp_path / "in" / "a.json").read_text()) == {"a": 1}


def test_what_has_no_json_form_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", object())
    assert list(tmp_path.iterdir()) == []
