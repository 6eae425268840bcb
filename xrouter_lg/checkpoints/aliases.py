"""Which checkpoint serves: alias files, moved atomically, and the log of every move.

`checkpoints/production.json` names the checkpoint that serves; `candidate.json` the one to come:

    {"id": ..., "checkpoint": "2026-11-24", "version": ..., "promoted_at": ..., "by": ...,
     "report": ..., "reason": ...}

`checkpoint` is relative to the alias file. A move is three steps under one lock: a line "intended"
in `aliases.log.jsonl`, the new alias file (temporary name, flushed, renamed), a line "done". A
process that dies between two of them leaves an alias that is whole, and the next move first writes
into the log what became of the broken one. Lines are only ever appended.
"""

from __future__ import annotations

import contextlib
import dataclasses
import getpass
import json
import os
import re
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from xrouter_lg.checkpoints.alias_log import Move, append, audit, history, parsed, standing
from xrouter_lg.checkpoints.folder import MANIFEST_FILE, verify
from xrouter_lg.checkpoints.manifest import CheckpointError, Manifest
from xrouter_lg.errors import ConfigurationError
from xrouter_lg.extras import need
from xrouter_lg.files import write_json

LOCK_FILE = ".aliases.lock"

_NAME = re.compile(r"^[a-z0-9][a-z0-9_-]{0,40}$")
_LOCK_WAIT_S = 30.0


class AliasError(ConfigurationError):
    """An alias can't be read, moved or rolled back; the message says why and what to do."""


class NotPromotedError(AliasError):
    """No verdict says that this checkpoint may serve."""


@dataclass(frozen=True, slots=True)
class Alias:
    """Where an alias points, and how it came to."""

    id: str
    """Of the move in the log."""
    checkpoint: str
    """Path relative to the alias file's folder."""
    version: str
    promoted_at: str
    """UTC, ISO 8601."""
    by: str
    report: str | None = None
    """sha256 and name of the report whose verdict allowed the move."""
    reason: str | None = None


def alias_file(root: str | Path, name: str) -> Path:
    """The file of an alias.

    Raises:
        AliasError: no name for an alias.
    """
    if not _NAME.match(name):
        raise AliasError(
            f"alias {name!r} can't be a file name: use lower-case letters, digits, '-' and '_'"
        )
    return Path(root) / f"{name}.json"


def read_alias(root: str | Path, name: str) -> Alias | None:
    """What an alias points to, None where there is none.

    Raises:
        AliasError: the file is damaged.
    """
    path = alias_file(root, name)
    try:
        return parsed(Alias, path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise AliasError(
            f"{str(path)!r} is no alias file: {error}. Restore it with `xrouter rollback`, or "
            "promote again"
        ) from error


def resolve_checkpoint(path: str | Path) -> Path:
    """The folder of a checkpoint that is named directly, or by an alias: with
    `checkpoints/production.json` there, `checkpoints/production` is what it points to.

    Raises:
        CheckpointError: neither is there, or the alias points to nothing.
    """
    where = Path(path)
    if where.joinpath(MANIFEST_FILE).is_file():
        return where
    root, name = where.parent, where.name.removesuffix(".json")
    alias = read_alias(root, name) if _NAME.match(name) else None
    if alias is None:
        raise CheckpointError(
            f"no checkpoint in {str(path)!r}: it has no {MANIFEST_FILE}, and there is no alias "
            f"file {f'{root / name}.json'!r}. Give the folder that training wrote, or promote one"
        )
    target = root / alias.checkpoint
    if not target.joinpath(MANIFEST_FILE).is_file():
        raise CheckpointError(
            f"alias {str(path)!r} points to {alias.checkpoint!r}, which is no checkpoint; put it "
            "back, or run `xrouter rollback`"
        )
    return target


def promote(
    checkpoint: str | Path,
    *,
    root: str | Path,
    alias: str = "production",
    report: str | Path | None = None,
    force: str | None = None,
    by: str | None = None,
) -> Move:
    """Let an alias point to a checkpoint.

    `production` needs a verdict that says so: `report` (the JSON that `xrouter judge` writes), or
    what the manifest holds; `force` is the reason for going without one, and is logged. Other
    aliases need none. The checkpoint's files are verified first.

    Raises:
        CheckpointError: the checkpoint is missing or damaged.
        NotPromotedError: no verdict for exactly this checkpoint, or one against it, or one against
            another production checkpoint than today's.
        AliasError: an alias file is damaged, or another move does not end.
    """
    folder, where = Path(root), Path(checkpoint)
    manifest = verify(where)
    named = None if report is None else report_name(report)
    with _locked(folder):
        _settle(folder)
        current = _current(folder, alias)
        if alias == "production" and force is None:
            check_verdict(manifest, None if report is None else Path(report), current)
        return _move(folder, alias, "promote", where, manifest, current, by, named, force)


def rollback(
    *, root: str | Path, alias: str = "production", to: str | None = None, by: str | None = None
) -> Move:
    """Let an alias point to what it pointed to before its last promotion; again: one further
    back. `to` names a version that it pointed to at any time.

    Raises:
        AliasError: there is nothing to go back to.
        CheckpointError: that checkpoint is gone or damaged.
    """
    folder = Path(root)
    with _locked(folder):
        _settle(folder)
        earlier = standing(history(folder, alias))
        if to is None:
            if len(earlier) < 2:
                raise AliasError(
                    f"alias {alias!r} has nothing to roll back to: it was promoted "
                    f"{len(earlier)} time(s). Promote the checkpoint you want"
                )
            target = earlier[-2]
        else:
            known = {move.to_version: move for move in history(folder, alias)}
            if to not in known:
                raise AliasError(
                    f"alias {alias!r} never pointed to version {to!r}; it did to "
                    f"{', '.join(known) or 'nothing'}"
                )
            target = known[to]
        where = folder / target.to_checkpoint
        manifest = verify(where)
        if manifest.version != target.to_version:
            raise AliasError(
                f"{target.to_checkpoint!r} is version {manifest.version} now; the log says "
                f"{target.to_version}: the folder was overwritten. Promote it if that is wanted"
            )
        current = _current(folder, alias)
        return _move(folder, alias, "rollback", where, manifest, current, by, None, None)


def check_verdict(manifest: Manifest, report: Path | None, current: Alias | None) -> None:
    """Refuse a checkpoint without a verdict for it.

    Raises:
        NotPromotedError: says what is missing and what to do.
    """
    if report is None:
        if manifest.verdict is None:
            raise NotPromotedError(
                f"checkpoint {manifest.version} has no verdict. Judge it and give the report "
                "(`xrouter judge ... --report R.html`, then `xrouter promote ... --report "
                "R.json`), or give a reason with --force"
            )
        if manifest.verdict.get("promote") is not True:
            raise NotPromotedError(
                f"the verdict in the manifest of {manifest.version} is against it: use "
                f"{manifest.verdict.get('use')!r}. {_first_reason(manifest.verdict)}"
            )
        return
    data = _read_report(report)
    judged = data.get("checkpoint", {}).get("version")
    if judged != manifest.version:
        raise NotPromotedError(
            f"{str(report)!r} judges checkpoint {judged}, not {manifest.version}: judge this one"
        )
    if data.get("promote") is not True:
        verdicts = [pool["verdict"] for pool in data.get("pools", []) if pool.get("verdict")]
        against = next((v for v in verdicts if not v["promote"]), None)
        raise NotPromotedError(
            f"{str(report)!r} does not promote {manifest.version}: "
            + ("it holds no verdict" if against is None else _first_reason(against))
        )
    opponent = data.get("production")
    if current is not None and opponent != current.version and current.version != manifest.version:
        raise NotPromotedError(
            f"{str(report)!r} judged against production {opponent}; today production is "
            f"{current.version}. Judge again with --production"
        )


def report_name(report: str | Path) -> str:
    """Name and sha256 of a report: which one it was stays provable."""
    import hashlib

    path = Path(report)
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise AliasError(
            f"report {str(report)!r} can't be read: {error.strerror}; {_WANTED}"
        ) from error
    return f"{path.name} sha256:{digest}"


_WANTED = "give the JSON that `xrouter judge --report` wrote"


def _read_report(report: Path) -> dict[str, Any]:
    try:
        data = json.loads(report.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise NotPromotedError(
            f"report {str(report)!r} can't be read: {error}; {_WANTED}"
        ) from error
    if not isinstance(data, dict) or "pools" not in data:
        raise NotPromotedError(f"{str(report)!r} is no report: {_WANTED}")
    return data


def _first_reason(verdict: Mapping[str, Any]) -> str:
    reasons = verdict.get("reasons") or ["no reason given"]
    return str(reasons[0])


def _move(
    root: Path,
    alias: str,
    action: Literal["promote", "rollback"],
    checkpoint: Path,
    manifest: Manifest,
    current: Alias | None,
    by: str | None,
    report: str | None,
    force: str | None,
) -> Move:
    relative = Path(os.path.relpath(checkpoint.resolve(), root.resolve())).as_posix()
    move = Move(
        id=uuid.uuid4().hex[:12],
        step="intended",
        action=action,
        alias=alias,
        at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        by=by or _user(),
        from_checkpoint=None if current is None else current.checkpoint,
        from_version=None if current is None else current.version,
        to_checkpoint=relative,
        to_version=manifest.version,
        report=report,
        forced=force,
    )
    pointed = Alias(move.id, relative, manifest.version, move.at, move.by, report, force)
    append(root, move)
    write_json(alias_file(root, alias), dataclasses.asdict(pointed), indent=1)
    done = dataclasses.replace(move, step="done")
    append(root, done)
    return done


def _current(root: Path, alias: str) -> Alias | None:
    """None for a damaged file too, which must not keep a good checkpoint from replacing it."""
    try:
        return read_alias(root, alias)
    except AliasError:
        return None


def _settle(root: Path) -> None:
    """Write what became of a move whose process died."""
    lines = audit(root)
    ended = {move.id for move in lines if move.step != "intended"}
    for move in lines:
        if move.step == "intended" and move.id not in ended:
            current = _current(root, move.alias)
            carried = current is not None and current.id == move.id
            append(root, dataclasses.replace(move, step="done" if carried else "not carried out"))


@contextlib.contextmanager
def _locked(root: Path) -> Iterator[None]:
    """One move at a time; the system lets go of the lock when a process dies."""
    root.mkdir(parents=True, exist_ok=True)
    filelock = need("filelock", "moving an alias")
    try:
        held = filelock.FileLock(root / LOCK_FILE).acquire(timeout=_LOCK_WAIT_S)
    except filelock.Timeout as error:
        raise AliasError(
            f"another move of an alias in {str(root)!r} holds its lock for "
            f"{_LOCK_WAIT_S:.0f} s; wait for it or end that process"
        ) from error
    with held:
        yield


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"
