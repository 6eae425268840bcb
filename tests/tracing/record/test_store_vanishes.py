"""A store that is deleted under way: requests go on, and what is lost is counted."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.tracing.routed import question, routed_graph
from xrouter_lg import Recorder


async def test_a_store_that_is_deleted_under_way_is_made_anew(tmp_path: Path) -> None:
    db = tmp_path / "traces.db"
    with Recorder(db) as recorder:
        await routed_graph().ainvoke(question(), {"callbacks": [recorder]})
        assert recorder.flush(10)
        for path in tmp_path.iterdir():
            path.unlink()
        await routed_graph().ainvoke(question(), {"callbacks": [recorder]})
        assert recorder.flush(10)
        assert db.exists() and len(recorder.store.routes()) == 1
        assert (recorder.failed, recorder.dropped) == (0, 0)


async def test_runs_are_counted_as_lost_while_the_stores_folder_is_gone(tmp_path: Path) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    with Recorder(folder / "traces.db") as recorder:
        await routed_graph().ainvoke(question(), {"callbacks": [recorder]})
        assert recorder.flush(10)
        shutil.rmtree(folder)
        await routed_graph().ainvoke(question(), {"callbacks": [recorder]})
        assert recorder.flush(10)
        assert recorder.failed > 0
        assert "folder" in str(recorder.last_error)
        folder.mkdir()
        await routed_graph().ainvoke(question(), {"callbacks": [recorder]})
        assert recorder.flush(10)
        assert len(recorder.store.routes()) == 1
