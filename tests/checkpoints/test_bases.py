"""Where a base model comes from, on a machine without torch too."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from xrouter_lg.checkpoints.bases import cache_root, materialise
from xrouter_lg.errors import ConfigurationError, MissingExtraError


@pytest.mark.parametrize("missing", ["torch", "transformers", "gguf"])
def test_a_gguf_base_names_the_extra_that_reads_it(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("torch", "transformers", "gguf"):
        monkeypatch.setitem(sys.modules, module, type(sys)(module))
    monkeypatch.setitem(sys.modules, missing, None)
    tmp_path.joinpath("base.gguf").write_bytes(b"GGUF")
    with pytest.raises(
        MissingExtraError, match=rf"base\.gguf.*needs '{missing}'.*xrouter_lg\[torch\]"
    ):
        materialise(tmp_path / "base.gguf", tmp_path / "made")


def test_a_folder_is_its_own_base(tmp_path: Path) -> None:
    assert materialise(tmp_path, tmp_path / "made") == tmp_path


def test_a_gguf_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"gone\.gguf' does not exist"):
        materialise(tmp_path / "gone.gguf", tmp_path / "made")


def test_the_cache_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XROUTER_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_root() == tmp_path / "xdg" / "xrouter_lg"
    monkeypatch.setenv("XROUTER_CACHE", str(tmp_path / "own"))
    assert cache_root() == tmp_path / "own"
