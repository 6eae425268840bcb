"""Shadows for tests, and what a record says of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.apps import (
    Says,
    record,
)
from xrouter_lg import (
    Proposal,
)
from xrouter_lg.checkpoints.aliases import promote
from xrouter_lg.checkpoints.folder import write_checkpoint
from xrouter_lg.checkpoints.manifest import Manifest
from xrouter_lg.checkpoints.parts import BaseIdentity, CardStats, LanguageModel

WAIT_S = 60.0
"""Where the test is about what is recorded: until the shadow is there, however slow the machine."""


def beside(propose: Callable[..., Any], version: str = "shadow") -> Says:
    says = Says(propose)
    says.version = version  # type: ignore[misc]
    return says


def likes(name: str) -> Says:
    return beside(lambda _request, cards: Proposal({c.name: float(c.name == name) for c in cards}))


def shadow_of(state: Any, turn: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = record(state)["decisions"][turn]["shadow"]
    return found


def comparable(state: Any) -> dict[str, Any]:
    """A record without what differs between two runs of one request."""
    found = dict(record(state))
    for name in ("latency_s", "started_at", "trace_id", "run_id", "shadow_cost_usd"):
        found.pop(name)
    found["decisions"] = [{**turn, "shadow": None} for turn in found["decisions"]]
    found["charges"] = [{**charge, "latency_s": 0} for charge in found["charges"]]
    return found


def checkpoints(root: Path) -> None:
    """Two checkpoints without a model, behind the aliases production and candidate."""
    for name in ("one", "two"):
        manifest = Manifest(
            kind="slots",
            language_model=LanguageModel(BaseIdentity("tiny", "0" * 64, "1" * 64, 3, 32), "merged"),
            cards=(CardStats("large", "large one", 1.0, 0.0, 100.0, 1e-3),),
            c_ref_usd=1e-3,
            best_fixed="large",
        )

        def weights(folder: Path, content: str = name) -> None:
            folder.joinpath("model.safetensors").write_bytes(content.encode())

        write_checkpoint(root / name, manifest, weights)
    promote(root / "one", root=root, force="first")
    promote(root / "two", root=root, alias="candidate")
