"""What is installed, set and there, and what to do next; nothing is called over the network."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, metadata, version
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from xrouter_lg import __version__
from xrouter_lg.calls.failures import describe
from xrouter_lg.checkpoints.aliases import read_alias
from xrouter_lg.checkpoints.bases import BASE_VARIABLE, cache_root
from xrouter_lg.checkpoints.folder import MANIFEST_FILE, read_manifest
from xrouter_lg.cli.newcomer.providers import PROVIDERS
from xrouter_lg.extras import need

State = Literal["ok", "absent", "wrong"]

_NAME = "xrouter_lg"
_VERSIONS = ("langgraph", "langchain", "langchain-core", "langchain-openai", "genai-prices")
_NOT_FOR_USERS = "dev"
_KEYS = ("LANGSMITH_API_KEY", "HF_TOKEN")
_TRACING = ("LANGSMITH_TRACING", "LANGSMITH_PROJECT", "LANGSMITH_ENDPOINT")
_PLACE = "production"


@dataclass(frozen=True)
class Fact:
    """One thing that was looked at."""

    area: str
    name: str
    state: State
    """``absent`` may be as it should be; ``wrong`` needs a hand."""
    said: str


@dataclass(frozen=True)
class NextStep:
    """The command to run next."""

    command: str
    why: str


@dataclass
class Seen:
    """What the next command is chosen by, filled in while looking."""

    pool: Path | None = None
    pool_ok: bool = False
    routes: int = 0
    feedback: str | None = None
    """The key of some recorded feedback."""
    production: bool = False
    extras: dict[str, bool] = field(default_factory=dict)
    langsmith: bool = False


@dataclass(frozen=True)
class Condition:
    """All that was found."""

    facts: tuple[Fact, ...]
    next: NextStep


def look(store: str, checkpoints: Path, pool: Path) -> Condition:
    """Look at this machine and this folder. What can't be read becomes a fact that says so."""
    seen = Seen()
    areas: tuple[tuple[str, Callable[[], Iterator[Fact]]], ...] = (
        ("version", _versions),
        ("extra", lambda: _extras(seen)),
        ("pool", lambda: _pool(pool, seen)),
        ("key", lambda: _keys(pool, seen)),
        ("store", lambda: _store(store, seen)),
        ("checkpoint", lambda: _checkpoints(checkpoints, seen)),
        ("langsmith", _langsmith),
        ("torch", _torch),
        ("weights", _weights),
    )
    facts: list[Fact] = []
    for area, looked in areas:
        try:
            facts += looked()
        except Exception as error:  # a doctor never falls ill of what it finds
            facts.append(Fact(area, "", "wrong", describe(error)))
    return Condition(tuple(facts), _next(seen, store, checkpoints))


def _versions() -> Iterator[Fact]:
    yield Fact("version", _NAME, "ok", __version__)
    yield Fact("version", "python", "ok", f"{platform.python_version()} on {platform.system()}")
    for name in _VERSIONS:
        found = _installed(name)
        yield Fact("version", name, "wrong" if found is None else "ok", found or "not installed")


def _extras(seen: Seen) -> Iterator[Fact]:
    """Each extra, by the package's own metadata."""
    from packaging.requirements import Requirement  # comes with langchain-core

    try:
        told = metadata(_NAME)
    except PackageNotFoundError:
        yield Fact("extra", "", "wrong", f'not installed by pip: pip install "{_NAME}[cli]"')
        return
    requirements = [Requirement(text) for text in told.get_all("Requires-Dist") or ()]
    for extra in told.get_all("Provides-Extra") or ():
        if extra == _NOT_FOR_USERS:
            continue
        lacking = sorted(_lacking(extra, requirements, set()))
        seen.extras[extra] = not lacking
        said = "installed"
        if lacking:
            said = f'without {", ".join(lacking)}: pip install "{_NAME}[{extra}]"'
        yield Fact("extra", extra, "absent" if lacking else "ok", said)


def _lacking(extra: str, requirements: list[Any], through: set[str]) -> set[str]:
    """The packages of an extra, and of those that it has in it, that are not there as wanted."""
    if extra in through:
        return set()
    through.add(extra)
    lacking: set[str] = set()
    for one in requirements:
        if one.marker is None or not one.marker.evaluate({"extra": extra}):
            continue
        if one.name.replace("-", "_") == _NAME:
            for within in one.extras:
                lacking |= _lacking(within, requirements, through)
            continue
        found = _installed(one.name)
        if found is None:
            lacking.add(one.name)
        elif not one.specifier.contains(found, prereleases=True):
            lacking.add(f"{one.name} {one.specifier} ({found} is there)")
    return lacking


def _pool(pool: Path, seen: Seen) -> Iterator[Fact]:
    from xrouter_lg.calls.check_pool import check_pool
    from xrouter_lg.pool.pool import ModelPool

    if not pool.is_file():
        yield Fact("pool", str(pool), "absent", "not there")
        return
    seen.pool = pool
    read = ModelPool.from_yaml(pool, reload=False)
    report = check_pool(read)
    seen.pool_ok = report.ok
    yield Fact("pool", str(pool), "ok", f"{', '.join(read.names)}; default {read.default}")
    for finding in report.findings:
        if finding.level == "error":
            yield Fact("pool", finding.card or "", "wrong", finding.text)


def _keys(pool: Path, seen: Seen) -> Iterator[Fact]:
    """The variables that may hold a key; their values are never looked at further."""
    names = [*(provider.variable for provider in PROVIDERS), *_KEYS]
    if seen.pool is not None:
        from xrouter_lg.pool.pool import ModelPool

        cards = ModelPool.from_yaml(pool, reload=False)
        names += [card.api_key_env for card in cards if card.api_key_env is not None]
    for name in dict.fromkeys(names):
        value = os.environ.get(name)
        there = bool(value and value.strip())
        said = "set" if there else "not set" if value is None else "set, and empty"
        yield Fact("key", name, "ok" if there else "absent", said)
    seen.langsmith = bool(os.environ.get("LANGSMITH_API_KEY"))


def _store(store: str, seen: Seen) -> Iterator[Fact]:
    from xrouter_lg.tracing.store.connect import resolve_url, shown
    from xrouter_lg.tracing.store.trace_store import TraceStore

    url = resolve_url(store)
    name = shown(url)
    if url.get_backend_name() != "sqlite":
        yield Fact("store", name, "ok", "a server; not asked, since nothing is called")
        return
    if not Path(url.database or "").is_file():
        yield Fact("store", name, "absent", "not there: nothing was recorded here yet")
        return
    with TraceStore(store, create=False) as opened:
        counts = opened.counts()
        newest = opened.routes(limit=50)
        said = (entry for row in newest for entry in opened.feedback(row.trace_id))
        seen.feedback = next((entry["key"] for entry in said if entry["score"] is not None), None)
        size = opened.used_bytes()
    seen.routes = counts["routes"]
    counted = ", ".join(f"{count} {what}" for what, count in counts.items())
    yield Fact("store", name, "ok", f"{counted}; {size / 1e6:.1f} MB")


def _checkpoints(folder: Path, seen: Seen) -> Iterator[Fact]:
    found = sorted(path.parent for path in folder.glob(f"*/{MANIFEST_FILE}"))
    for path in found:
        try:
            manifest = read_manifest(path)
        except ValueError as error:
            yield Fact("checkpoint", str(path), "wrong", str(error))
            continue
        cards = ", ".join(card.name for card in manifest.every_card)
        yield Fact("checkpoint", str(path), "ok", f"{manifest.kind} {manifest.version}: {cards}")
    alias = read_alias(folder, _PLACE)
    place = str(folder / _PLACE)
    if alias is None:
        yield Fact("checkpoint", place, "absent", "no checkpoint is promoted")
        return
    seen.production = folder.joinpath(alias.checkpoint, MANIFEST_FILE).is_file()
    said = f"{alias.checkpoint} ({alias.version}), promoted {alias.promoted_at}"
    if not seen.production:
        said += "; it is not there: put it back, or run `xrouter rollback`"
    yield Fact("checkpoint", place, "ok" if seen.production else "wrong", said)


def _langsmith() -> Iterator[Fact]:
    for name in _TRACING:
        value = os.environ.get(name)
        if value and name.endswith("ENDPOINT"):
            # Somebody may have put a password into it.
            value = urlsplit(value).hostname or "no address"
        yield Fact("langsmith", name, "ok" if value else "absent", value or "not set")


def _torch() -> Iterator[Fact]:
    found = _installed("torch")
    if found is None:
        yield Fact("torch", "torch", "absent", "not installed; only language models need it")
        return
    torch = need("torch", "the GPU check")
    yield Fact("torch", "torch", "ok", found)
    if torch.cuda.is_available():
        names = (torch.cuda.get_device_name(at) for at in range(torch.cuda.device_count()))
        yield Fact("torch", "GPU", "ok", ", ".join(names))
    elif torch.backends.mps.is_available():
        yield Fact("torch", "GPU", "ok", "Apple's, by MPS")
    else:
        yield Fact("torch", "GPU", "absent", "none that torch can use")


def _weights() -> Iterator[Fact]:
    base = os.environ.get(BASE_VARIABLE)
    if base:
        yield Fact("weights", BASE_VARIABLE, "ok", base)
    root = cache_root()
    held = sorted(path.name for path in root.iterdir()) if root.is_dir() else []
    said = ", ".join(held) or "nothing fetched; only language models need it"
    yield Fact("weights", str(root), "ok" if held else "absent", said)


def _next(seen: Seen, store: str, checkpoints: Path) -> NextStep:
    if seen.pool is None:
        return NextStep("xrouter init", "there is no pool file yet; this writes one")
    if not seen.pool_ok:
        return NextStep(f"xrouter pool check {seen.pool}", "the pool can't be used as it is")
    if not seen.routes and seen.langsmith:
        return NextStep(
            "xrouter traces pull --project PROJECT --since 14d",
            "no request is recorded here, and there is a key for LangSmith",
        )
    if not seen.routes:
        return NextStep(
            f"xrouter pool check {seen.pool} --live",
            "no request is recorded yet: when the models answer, use "
            f"XRouterNode(pool, traces=Recorder({store!r})) in your graph",
        )
    if seen.extras.get("data") is False:
        return NextStep(f'pip install "{_NAME}[cli,data]"', "learning from traces needs it")
    if seen.production:
        return NextStep(
            f"xrouter drift --checkpoint {checkpoints / _PLACE}",
            "a checkpoint serves; this says whether traffic has moved away from it",
        )
    if seen.feedback is not None:
        return NextStep(
            f"xrouter learn --feedback {seen.feedback} --pool {seen.pool}",
            f"{seen.routes} requests are recorded, and users have said what they think",
        )
    return NextStep(
        "xrouter outcomes build --to outcomes --verifiers verifiers.yaml",
        f"{seen.routes} requests are recorded without feedback: verifiers can score the answers",
    )


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
