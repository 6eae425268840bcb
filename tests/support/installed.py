"""A user who has installed the wheel, and works in a folder of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
FOREIGN = ("training", "data", "integrations", "benchmarks", "graphs")
"""Packages that the user's own folder has, and that nothing of ours may take for its own."""


@dataclass(frozen=True)
class Built:
    wheel: Path
    sdist: Path


@dataclass(frozen=True)
class User:
    """Somebody who has installed the wheel and works in a folder with code of their own."""

    bin: Path
    home: Path

    @property
    def env(self) -> dict[str, str]:
        # The folder is on the path, so that a wrong import would find what lies in it.
        return {
            "PATH": f"{self.bin}:/usr/bin:/bin",
            "HOME": str(self.home),
            "PYTHONPATH": str(self.home),
            "COLUMNS": "200",
        }

    def run(self, *command: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self.bin / str(command[0])), *map(str, command[1:])],
            cwd=self.home,
            env=self.env,
            capture_output=True,
            text=True,
            check=False,
        )

    def xrouter(self, *arguments: Any, code: int = 0) -> str:
        """What the console script prints."""
        done = self.run("xrouter", *arguments)
        assert done.returncode == code, (
            f"{arguments}: {done.returncode}\n{done.stdout}{done.stderr}"
        )
        return done.stdout

    def python(self, *arguments: Any) -> Any:
        """What a script prints, as JSON."""
        done = self.run("python", *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)


def pip(*arguments: str | Path, python: str | Path = sys.executable) -> None:
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [str(python), "-m", "pip", "--disable-pip-version-check", *map(str, arguments)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
