"""Promotion and rollback: whole files, a complete log, one move at a time, whatever dies."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from xrouter_lg.checkpoints.alias_log import AUDIT_FILE, audit, history
from xrouter_lg.checkpoints.aliases import (
    AliasError,
    NotPromotedError,
    promote,
    read_alias,
    resolve_checkpoint,
    rollback,
)
from xrouter_lg.checkpoints.folder import write_checkpoint
from xrouter_lg.checkpoints.manifest import CheckpointError, Manifest
from xrouter_lg.checkpoints.parts import BaseIdentity, CardStats, LanguageModel

YES = {"promote": True, "use": "checkpoint", "reasons": ["Beats best fixed."]}
NO = {"promote": False, "use": "the fixed model large", "reasons": ["Loses to kNN: -0.1."]}


def checkpoint(root: Path, name: str, verdict: dict[str, Any] | None = YES) -> Manifest:
    card = CardStats("large", "large one", 1.0, 0.0, 100.0, 1e-3)
    base = BaseIdentity("tiny", "0" * 64, "1" * 64, 3, 32)
    manifest = Manifest(
        kind="slots",
        language_model=LanguageModel(base, "adapter"),
        cards=(card,),
        c_ref_usd=1e-3,
        best_fixed="large",
        verdict=verdict,
    )

    def write(folder: Path) -> None:
        folder.joinpath("adapter_model.safetensors").write_bytes(name.encode())

    return write_checkpoint(root / name, manifest, write)


def report(path: Path, version: str, verdict: dict[str, Any], production: str | None) -> Path:
    data = {
        "checkpoint": {"version": version},
        "promote": verdict["promote"],
        "production": production,
        "pools": [{"verdict": verdict}],
    }
    path.write_text(json.dumps(data))
    return path


@pytest.fixture
def versions(tmp_path: Path) -> dict[str, str]:
    return {name: checkpoint(tmp_path, name).version for name in ("one", "two", "three")}


def test_an_alias_says_where_who_when_and_why(tmp_path: Path, versions: dict[str, str]) -> None:
    file = report(tmp_path / "r.json", versions["one"], YES, None)
    promote(tmp_path / "one", root=tmp_path, report=file, by="ada")
    data = json.loads((tmp_path / "production.json").read_text())
    assert data["checkpoint"] == "one" and data["version"] == versions["one"]
    assert data["by"] == "ada" and data["promoted_at"].endswith("Z")
    assert data["report"].startswith("r.json sha256:")
    assert resolve_checkpoint(tmp_path / "production") == tmp_path / "one"


def test_the_log_holds_every_move(tmp_path: Path, versions: dict[str, str]) -> None:
    promote(tmp_path / "one", root=tmp_path, by="ada")
    promote(tmp_path / "two", root=tmp_path, by="bo")
    rollback(root=tmp_path, by="cy")
    moves = history(tmp_path, "production")
    assert [(m.action, m.by, m.from_version, m.to_version) for m in moves] == [
        ("promote", "ada", None, versions["one"]),
        ("promote", "bo", versions["one"], versions["two"]),
        ("rollback", "cy", versions["two"], versions["one"]),
    ]


def test_rolling_back_twice_goes_back_twice(tmp_path: Path, versions: dict[str, str]) -> None:
    for name in ("one", "two", "three"):
        promote(tmp_path / name, root=tmp_path)
    assert rollback(root=tmp_path).to_version == versions["two"]
    assert rollback(root=tmp_path).to_version == versions["one"]
    with pytest.raises(AliasError, match="nothing to roll back to"):
        rollback(root=tmp_path)


def test_a_promotion_after_a_rollback_is_rolled_back_to_where_it_came_from(
    tmp_path: Path, versions: dict[str, str]
) -> None:
    for name in ("one", "two"):
        promote(tmp_path / name, root=tmp_path)
    rollback(root=tmp_path)
    promote(tmp_path / "three", root=tmp_path)
    assert rollback(root=tmp_path).to_version == versions["one"]


def test_rollback_names_a_version(tmp_path: Path, versions: dict[str, str]) -> None:
    for name in ("one", "two", "three"):
        promote(tmp_path / name, root=tmp_path)
    rollback(root=tmp_path, to=versions["one"])
    assert read_alias(tmp_path, "production").version == versions["one"]  # type: ignore[union-attr]
    with pytest.raises(AliasError, match="never pointed to version 'none'"):
        rollback(root=tmp_path, to="none")


def test_no_verdict_no_promotion(tmp_path: Path) -> None:
    checkpoint(tmp_path, "new", None)
    with pytest.raises(NotPromotedError, match="has no verdict"):
        promote(tmp_path / "new", root=tmp_path)
    assert not (tmp_path / "production.json").exists() and audit(tmp_path) == []


def test_a_verdict_against_it_says_what_to_use(tmp_path: Path) -> None:
    checkpoint(tmp_path, "bad", NO)
    with pytest.raises(NotPromotedError, match=r"the fixed model large.*Loses to kNN"):
        promote(tmp_path / "bad", root=tmp_path)


def test_a_report_about_another_checkpoint_is_refused(
    tmp_path: Path, versions: dict[str, str]
) -> None:
    file = report(tmp_path / "r.json", versions["two"], YES, None)
    with pytest.raises(NotPromotedError, match="not " + versions["one"]):
        promote(tmp_path / "one", root=tmp_path, report=file)


def test_a_report_against_yesterdays_production_is_refused(
    tmp_path: Path, versions: dict[str, str]
) -> None:
    promote(tmp_path / "one", root=tmp_path)
    file = report(tmp_path / "r.json", versions["two"], YES, None)
    with pytest.raises(NotPromotedError, match=f"today production is {versions['one']}"):
        promote(tmp_path / "two", root=tmp_path, report=file)
    file = report(tmp_path / "r.json", versions["two"], YES, versions["one"])
    promote(tmp_path / "two", root=tmp_path, report=file)


def test_force_is_logged_with_its_reason(tmp_path: Path) -> None:
    checkpoint(tmp_path, "bad", NO)
    promote(tmp_path / "bad", root=tmp_path, force="the old one leaks")
    assert history(tmp_path)[-1].forced == "the old one leaks"
    assert read_alias(tmp_path, "production").reason == "the old one leaks"  # type: ignore[union-attr]


def test_a_candidate_needs_no_verdict(tmp_path: Path) -> None:
    checkpoint(tmp_path, "new", None)
    promote(tmp_path / "new", root=tmp_path, alias="candidate")
    assert resolve_checkpoint(tmp_path / "candidate").name == "new"


@pytest.mark.parametrize("name", ["../x", "Production", "", "a/b", "."])
def test_an_alias_is_no_path(name: str, tmp_path: Path, versions: dict[str, str]) -> None:
    with pytest.raises(AliasError, match="can't be a file name"):
        promote(tmp_path / "one", root=tmp_path, alias=name)


def test_a_damaged_checkpoint_is_never_promoted(tmp_path: Path, versions: dict[str, str]) -> None:
    (tmp_path / "one" / "adapter_model.safetensors").write_bytes(b"other")
    with pytest.raises(CheckpointError, match="damaged"):
        promote(tmp_path / "one", root=tmp_path, force="anyway")


def test_a_checkpoint_that_was_overwritten_is_not_rolled_back_to(
    tmp_path: Path, versions: dict[str, str]
) -> None:
    promote(tmp_path / "one", root=tmp_path)
    promote(tmp_path / "two", root=tmp_path)
    other = checkpoint(tmp_path, "other")
    (tmp_path / "one").rename(tmp_path / "old")
    (tmp_path / "other").rename(tmp_path / "one")
    with pytest.raises(AliasError, match=f"is version {other.version} now"):
        rollback(root=tmp_path)


def test_an_alias_to_nothing_says_so(tmp_path: Path, versions: dict[str, str]) -> None:
    promote(tmp_path / "one", root=tmp_path)
    (tmp_path / "one").rename(tmp_path / "gone")
    with pytest.raises(CheckpointError, match="points to 'one', which is no checkpoint"):
        resolve_checkpoint(tmp_path / "production")
    with pytest.raises(CheckpointError, match=r"no alias file '\S+\.json'\. "):
        resolve_checkpoint(tmp_path / "nothing")


def test_a_damaged_alias_file_is_named_and_can_be_replaced(
    tmp_path: Path, versions: dict[str, str]
) -> None:
    (tmp_path / "production.json").write_text('{"checkpoint": ')
    with pytest.raises(AliasError, match="xrouter rollback"):
        read_alias(tmp_path, "production")
    promote(tmp_path / "one", root=tmp_path)
    assert resolve_checkpoint(tmp_path / "production").name == "one"


def run(code: str, root: Path) -> subprocess.CompletedProcess[str]:
    program = "import os, xrouter_lg.checkpoints.aliases as a\n" + code
    return subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, timeout=60
    )


def test_a_process_that_dies_before_the_rename_has_moved_nothing(
    tmp_path: Path, versions: dict[str, str]
) -> None:
    promote(tmp_path / "one", root=tmp_path)
    died = run("a.write_json = lambda *_, **__: os._exit(9)\na.promote('two', root='.')", tmp_path)
    assert died.returncode == 9
    assert read_alias(tmp_path, "production").version == versions["one"]  # type: ignore[union-attr]
    promote(tmp_path / "three", root=tmp_path)
    steps = [(m.to_version, m.step) for m in audit(tmp_path) if m.to_version == versions["two"]]
    assert steps == [(versions["two"], "intended"), (versions["two"], "not carried out")]
    assert rollback(root=tmp_path).to_version == versions["one"]


def test_a_process_that_dies_after_the_rename_has_moved_and_the_log_says_so(
    tmp_path: Path, versions: dict[str, str]
) -> None:
    promote(tmp_path / "one", root=tmp_path)
    code = (
        "keep = a.write_json\n"
        "def die(*args, **how):\n"
        "    keep(*args, **how)\n"
        "    os._exit(9)\n"
        "a.write_json = die\n"
        "a.promote('two', root='.')"
    )
    assert run(code, tmp_path).returncode == 9
    assert read_alias(tmp_path, "production").version == versions["two"]  # type: ignore[union-attr]
    assert rollback(root=tmp_path).to_version == versions["one"]
    assert [m.to_version for m in history(tmp_path)] == [
        versions["one"],
        versions["two"],
        versions["one"],
    ]


def test_a_line_torn_by_a_crash_spoils_no_other(tmp_path: Path, versions: dict[str, str]) -> None:
    promote(tmp_path / "one", root=tmp_path)
    with (tmp_path / AUDIT_FILE).open("a") as log:
        log.write('{"id": "half')
    promote(tmp_path / "two", root=tmp_path)
    assert [m.to_version for m in history(tmp_path)] == [versions["one"], versions["two"]]


def test_kill_minus_nine_at_any_time_leaves_a_whole_alias_and_a_true_log(
    tmp_path: Path, versions: dict[str, str]
) -> None:
    code = "import xrouter_lg.checkpoints.aliases as a\nwhile True:\n"
    code += "".join(f"    a.promote({name!r}, root='.')\n" for name in versions)
    for attempt in range(5):
        process = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path)
        seen = len(audit(tmp_path))
        while len(audit(tmp_path)) < seen + 3 + attempt and process.poll() is None:
            time.sleep(0.001)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        alias = read_alias(tmp_path, "production")
        assert alias is not None and alias.version in versions.values()
        promote(tmp_path / "one", root=tmp_path)  # the lock died with the process
        moves = history(tmp_path, "production")
        chain = [(m.from_version, m.to_version) for m in moves]
        assert all(a[1] == b[0] for a, b in itertools.pairwise(chain))
        assert chain[-1][0] == alias.version


def test_moves_at_the_same_time_happen_one_after_the_other(
    tmp_path: Path, versions: dict[str, str]
) -> None:
    names = [*versions] * 6
    with ThreadPoolExecutor(6) as threads:
        list(threads.map(lambda name: promote(tmp_path / name, root=tmp_path), names))
    moves = history(tmp_path, "production")
    assert len(moves) == len(names)
    assert all(a.to_version == b.from_version for a, b in itertools.pairwise(moves))
    assert read_alias(tmp_path, "production").version == moves[-1].to_version  # type: ignore[union-attr]


def test_a_move_survives_a_newer_log_with_more_fields(
    tmp_path: Path, versions: dict[str, str]
) -> None:
    promote(tmp_path / "one", root=tmp_path)
    (line, *_) = (tmp_path / AUDIT_FILE).read_text().splitlines()
    newer = json.dumps({**json.loads(line), "step": "done", "mood": "good"})
    with (tmp_path / AUDIT_FILE).open("a") as log:
        log.write(newer + "\n")
    assert history(tmp_path)[-1] == replace(history(tmp_path)[0])
