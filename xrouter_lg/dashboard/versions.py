"""Which checkpoints there are, which of them serve, and moves between them: by the same functions,
and so the same guard and the same log, as `xrouter promote` and `rollback`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from xrouter_lg.checkpoints.alias_log import Move, history
from xrouter_lg.checkpoints.aliases import AliasError, promote, read_alias, rollback
from xrouter_lg.checkpoints.folder import MANIFEST_FILE, read_manifest
from xrouter_lg.checkpoints.manifest import CheckpointError
from xrouter_lg.errors import ConfigurationError

ALIASES = ("production", "candidate")
_MOVES = 12
_BY = "dashboard"


def read_versions(root: Path) -> dict[str, Any]:
    """Aliases, checkpoints (the newest first) and the last moves of a folder; what is damaged says
    so."""
    aliases = []
    for name in ALIASES:
        try:
            pointed = read_alias(root, name)
            aliases.append(
                {"alias": name, **({} if pointed is None else asdict(pointed)), "error": None}
            )
        except AliasError as error:
            aliases.append({"alias": name, "error": str(error)})
    moves = history(root)
    found = [_described(folder) for folder in _folders(root)]
    return {
        "aliases": aliases,
        "checkpoints": sorted(found, key=lambda one: -(one["created_at"] or 0.0)),
        "moves": [asdict(move) for move in reversed(moves[-_MOVES:])],
        "can_roll_back": [
            name
            for name in ALIASES
            if sum(move.alias == name and move.action == "promote" for move in moves) > 1
        ],
    }


def move(root: Path, action: str, alias: str, checkpoint: str | None) -> Move:
    """Let an alias point elsewhere. There is no way round a missing verdict here.

    Raises:
        ConfigurationError: no such action, alias or checkpoint.
        NotPromotedError, AliasError, CheckpointError: as of `xrouter promote` and `rollback`.
    """
    if alias not in ALIASES:
        raise ConfigurationError(f"alias is {alias!r}; it must be {' or '.join(ALIASES)}")
    if action == "rollback":
        return rollback(root=root, alias=alias, by=_BY)
    if action != "promote":
        raise ConfigurationError(f"action is {action!r}; it must be promote or rollback")
    folder = next((one for one in _folders(root) if one.name == checkpoint), None)
    if folder is None:
        raise ConfigurationError(f"there is no checkpoint {checkpoint!r} in {str(root)!r}")
    return promote(folder, root=root, alias=alias, by=_BY)


def _folders(root: Path) -> list[Path]:
    if not root.is_dir():
        return []
    return sorted(one for one in root.iterdir() if one.joinpath(MANIFEST_FILE).is_file())


def _described(folder: Path) -> dict[str, Any]:
    try:
        manifest = read_manifest(folder)
    except CheckpointError as error:
        return {"name": folder.name, "version": None, "created_at": None, "error": str(error)}
    verdict = manifest.verdict or {}
    reasons = verdict.get("reasons") or []
    return {
        "name": folder.name,
        "version": manifest.version,
        "kind": manifest.kind,
        "created_at": manifest.created_at,
        "cards": [card.name for card in manifest.every_card],
        "promote": verdict.get("promote") if verdict else None,
        "reason": str(reasons[0]) if reasons else None,
        "error": None,
    }
