"""A store of real requests, and checkpoints of which one may serve."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.judge.test_live_traffic import run, texts
from tests.support.logs import World, always
from xrouter_lg.checkpoints.aliases import promote
from xrouter_lg.dashboard.routes import Dashboard
from xrouter_lg.dashboard.source import DashboardSource
from xrouter_lg.fitting.from_log import learned_from, write_from_log
from xrouter_lg.fitting.read_lesson import LessonSettings
from xrouter_lg.serve.run import running

KEY = "k" * 32
HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script>"


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a store."""
    path = tmp_path_factory.mktemp("dashboard") / "t.db"
    run(path, "fixed:small", texts(130), exploration=1.0)
    run(path, "fixed:small", [f"{HOSTILE} {n}" for n in range(3)], exploration=1.0)
    return path.parent


@pytest.fixture
def traces(recorded: Path, tmp_path: Path) -> Path:
    return shutil.copytree(recorded, tmp_path / "traces") / "t.db"


@pytest.fixture(scope="session")
def learned_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints ``good`` and ``better``, which may serve, and ``poor``, which may not."""
    root = tmp_path_factory.mktemp("learned")
    for number, (name, allowed) in enumerate((("good", True), ("better", True), ("poor", False))):
        table = World.of(300, seed=number).log(always("large", 300, 0.5))
        verdict = {"promote": allowed, "use": "large", "reasons": [f"because {HOSTILE}"]}
        write_from_log(
            root / name, learned_from(table, LessonSettings()), LessonSettings(), verdict=verdict
        )
    return root


@pytest.fixture
def checkpoints(learned_once: Path, tmp_path: Path) -> Path:
    root = tmp_path / "checkpoints"
    shutil.copytree(learned_once, root)
    promote(root / "good", root=root, by="a test")
    return root


@pytest.fixture(scope="session")
def shown(
    recorded: Path, learned_once: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """A dashboard for all tests that only look: its figures take a while."""
    folder = tmp_path_factory.mktemp("shown")
    root = shutil.copytree(learned_once, folder / "checkpoints")
    for name in ("better", "good"):
        promote(root / name, root=root, by="a test")
    traces = shutil.copytree(recorded, folder / "traces") / "t.db"
    source = DashboardSource(store=str(traces), checkpoints=root, feedback="good")
    with running(Dashboard(source, KEY).app()) as base:
        yield base


@pytest.fixture
def source(traces: Path, checkpoints: Path) -> DashboardSource:
    return DashboardSource(store=str(traces), checkpoints=checkpoints, feedback="good")


@pytest.fixture
def url(source: DashboardSource) -> Iterator[str]:
    """A dashboard on a free port of this machine."""
    with running(Dashboard(source, KEY).app()) as base:
        yield base
