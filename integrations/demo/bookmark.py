"""How far a run of the demo has come: a file that the next run goes on from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from xrouter_lg.files import write_json

FILE = "demo.json"


class Bookmark:
    """Stages that are done, and what later ones need to know of them."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        """Of a run with these ``settings``; one with others, or one that is damaged, counts as
        none."""
        self._path = folder / FILE
        self.begun = False
        """Whether there is something to go on from."""
        self._said: dict[str, Any] = {"settings": dict(settings), "done": {}, "kept": {}}
        try:
            found = json.loads(self._path.read_text(encoding="utf-8"))
            if found["settings"] == self._said["settings"] and not found["kept"].get("finished"):
                self._said = {name: found[name] for name in self._said}
                self.begun = True
        except (OSError, ValueError, KeyError, AttributeError, TypeError):
            pass  # nothing is lost: a run begins

    def is_done(self, stage: str) -> bool:
        return stage in self._said["done"]

    def done(self, stage: str) -> None:
        self._said["done"][stage] = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
        self._write()

    def get(self, name: str) -> Any:
        """What was kept; None where nothing was."""
        return self._said["kept"].get(name)

    def keep(self, name: str, value: Any) -> Any:
        """Keep a JSON value, unless there is one: what counts is what was said first."""
        kept = self._said["kept"].setdefault(name, value)
        self._write()
        return kept

    def _write(self) -> None:
        write_json(self._path, self._said, indent=1)
