"""Kill -9 at random points of all that writes: it is taken up again, nothing half-written loads,
and nothing that was finished is paid twice."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.crash.nightly import (
    Backfilling,
    Exporting,
    Learning,
    Promoting,
    Pulling,
    Training,
)
from tests.faults.crash.running import Recording, RecordingAsync, Serving
from tests.faults.crash.scene import IMPORTS, Scene, torment
from tests.support.forked import Forks

KILLS = 50 if os.environ.get("XROUTER_LONG_TESTS") else 2
SCENES: dict[str, type[Scene]] = {
    "serving": Serving,
    "recording": Recording,
    "recording async": RecordingAsync,
    "pulling": Pulling,
    "backfilling": Backfilling,
    "learning": Learning,
    "training": Training,
    "exporting": Exporting,
    "promoting": Promoting,
}


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LANGSMITH_API_KEY", "lsv2_pt_test_0123456789abcdef")
        with Forks(tmp_path_factory.mktemp("forks"), IMPORTS) as opened:
            yield opened


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", SCENES)
def test_a_job_that_is_killed_at_any_point_is_taken_up_again(
    kind: str, tmp_path: Path, forks: Forks
) -> None:
    scene = SCENES[kind](tmp_path, random.Random(f"killed while {kind}"))
    with scene.running():
        fell = torment(scene, forks, KILLS)
    assert len(fell) == KILLS
