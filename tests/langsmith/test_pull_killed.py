"""Kill -9 in the middle of a pull, ten times: no loss, no duplicate."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.langsmith.conftest import (
    PROJECT,
    add_trace,
    days_ago,
    run_id,
    stored,
    there,
)
from tests.support.langsmith_server import LangSmithServer
from xrouter_lg.tracing.store.trace_store import TraceStore

TRACES, KILLS = 300, 10


def fill(server: LangSmithServer) -> None:
    """Two days of traces: steady, a burst, long ones, an open one, and feedback."""
    for number in range(TRACES):
        start = days_ago(2) + timedelta(minutes=8 * number)
        if 100 <= number < 180:
            start = days_ago(1) + timedelta(milliseconds=100 * number)
        long = number % 50 == 7
        add_trace(server, number, start, seconds=3000 if long else 2, open_=number == 290)
        if number % 3 == 0:
            at = (start + timedelta(minutes=1)).isoformat()
            server.add_feedback(
                {
                    "id": run_id(number + 5000),
                    "run_id": run_id(number),
                    "key": "liked",
                    "score": number % 2,
                    "created_at": at,
                    "modified_at": at,
                }
            )


def start_pull(server: LangSmithServer, db: Path, *, size: int = 20) -> subprocess.Popen[bytes]:
    command = [
        *(sys.executable, "-c", "from xrouter_lg.cli import main; main()", "traces", "pull"),
        *("--project", PROJECT, "--since", "3d", "--store", str(db), "--endpoint", server.url),
        *("--page-size", str(size), "--json"),
    ]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "LANGSMITH_API_KEY": "lsv2_pt_test_0123456789abcdef"},
        start_new_session=True,
    )


def rows(db: Path) -> dict[str, int]:
    """What is committed, read without the store's own code."""
    if not db.exists():
        return {"runs": 0, "feedback": 0}
    with sqlite3.connect(db) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        return {
            name: connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0]
            if name in tables
            else 0
            for name in ("runs", "feedback")
        }


def broken(db: Path, server: LangSmithServer) -> list[str]:
    """Traces of which the store has some runs and lacks others."""
    if not rows(db)["runs"]:
        return []
    whole = there(server)
    with TraceStore(db) as store:
        return [trace for trace, runs in stored(store).items() if runs != whole[trace]]


@pytest.mark.timeout(600)  # eleven processes, on a busy machine
def test_ten_kills_lose_nothing_and_double_nothing(tmp_path: Path) -> None:
    db = tmp_path / "traces.db"
    dice = random.Random(20261124)
    kept = []
    with LangSmithServer() as server:
        fill(server)
        server.latency_s = 0.02
        served = 0
        for _ in range(KILLS):
            process = start_pull(server, db)
            # Killed after so many of its own requests, wherever that finds it.
            target = served + dice.randint(3, 14)
            while process.poll() is None and len(server.requests) < target:
                time.sleep(0.001)
            time.sleep(dice.uniform(0, 0.03))
            assert process.poll() is None, process.communicate()[1].decode()
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            served = len(server.requests)
            kept.append(rows(db)["runs"])
            assert broken(db, server) == []
        assert kept == sorted(kept), "a kill must not take back what was kept"
        assert 0 < kept[-1] < TRACES * 5, f"the kills must fall within the pull: {kept}"

        process = start_pull(server, db)
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err.decode()
        summary: dict[str, Any] = json.loads(out)
        with TraceStore(db) as store:
            assert stored(store) == there(server)
            counts = store.counts()
            said = [e["id"] for t in store.iter_traces() for e in t.feedback]
        assert sorted(said) == sorted(server.feedback)
        assert counts["runs"] == len(server.runs) == TRACES * 5
        assert rows(db) == {"runs": TRACES * 5, "feedback": TRACES // 3}
    print(  # noqa: T201
        f"\n{KILLS} kills after {kept} runs; then {summary['new_runs']} new ones: "
        f"{counts['runs']} of {TRACES * 5} runs, {counts['traces']} of {TRACES} traces, "
        f"{counts['feedback']} of {TRACES // 3} feedback, {counts['routes']} routes; none lost, "
        f"none doubled"
    )


def test_ctrl_c_keeps_finished_slices_and_says_so(tmp_path: Path) -> None:
    db = tmp_path / "traces.db"
    with LangSmithServer() as server:
        fill(server)
        server.latency_s = 0.02
        process = start_pull(server, db)
        while not rows(db)["runs"] and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 130
        assert "Run it again to continue" in err.decode() and "Traceback" not in err.decode()
        assert rows(db)["runs"] > 0 and broken(db, server) == []
