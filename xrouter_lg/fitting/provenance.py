"""Where a checkpoint comes from: versions, commit, command and time."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xrouter_lg.tracing.runs.redact import known_secrets, scrub_text

LIBRARIES = ("numpy", "scipy", "scikit-learn", "polars", "safetensors")
"""Those that a fit without a language model runs on."""


def provenance(libraries: Sequence[str] = LIBRARIES) -> dict[str, Any]:
    """The manifest's fields that say who wrote it, and when."""
    versions = {name: importlib.metadata.version(name) for name in ("xrouter_lg", *libraries)}
    return {
        "versions": versions,
        "git_revision": git_revision(),
        # A store's URL among the arguments may hold a password.
        "command": scrub_text(" ".join(["python", *sys.argv]), known_secrets()),
        "created_at": time.time(),
    }


def git_revision() -> str | None:
    """The checkout's commit, with ``+`` when files differ from it; None outside a checkout."""
    root = Path(__file__).parents[2]
    if not root.joinpath(".git").exists():
        return None  # installed, maybe inside a repository of somebody else's

    def git(*args: str) -> str:
        command = ["git", "-C", str(root), *args]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603

    try:
        dirty = "+" if git("status", "--porcelain", "--untracked-files=no") else ""
        return git("rev-parse", "HEAD") + dirty
    except (OSError, subprocess.CalledProcessError):
        return None
