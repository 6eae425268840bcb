"""What every test may ask for."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support.grids import make_grid, two_task_grid
from tests.support.postgres import new_database, running_postgres
from xrouter_lg.outcomes.grid import OutcomeGrid
from xrouter_lg.testing import FakeModel, FakeOpenAIServer

_MARKED = re.compile(r"^pytestmark = .*\bpytest\.mark\.train\b", re.MULTILINE)

# A busy machine is no fault of the code: no example is judged by the clock.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

if find_spec("torch") is None:
    # Files with this mark import torch at their top: without it there is nothing to collect.
    here = Path(__file__).parent
    collect_ignore = [
        str(path.relative_to(here))
        for path in here.rglob("test_*.py")
        if _MARKED.search(path.read_text(encoding="utf-8"))
    ]


@pytest.fixture
def fake() -> Iterator[FakeOpenAIServer]:
    """A running fake provider with models that say who they are."""
    models = [
        FakeModel(name="small", reply="small says hello to you"),
        FakeModel(name="medium", reply="medium says a few more words to you"),
        FakeModel(
            name="large",
            reply="large says many more words than the others do",
            cached_tokens=2,
            reasoning_tokens=3,
        ),
        FakeModel(name="guide", reply="I route"),
    ]
    with FakeOpenAIServer(models) as running:
        yield running


@pytest.fixture
def make_table() -> Callable[..., OutcomeGrid]:
    """Makes a grid from nested lists of scores and costs."""
    return make_grid


@pytest.fixture
def two_tasks() -> OutcomeGrid:
    """A small grid whose figures can be worked out by hand."""
    return two_task_grid()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a Postgres server."""
    with running_postgres() as url:
        yield url


@pytest.fixture
def postgres_url(postgres_server: str) -> str:
    """The URL of an empty database of its own."""
    return new_database(postgres_server)


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Path or URL of an empty database: a test that takes it runs on both kinds."""
    if request.param == "sqlite":
        return str(tmp_path / "database.db")
    url: str = request.getfixturevalue("postgres_url")
    return url
