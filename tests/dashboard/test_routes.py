"""The dashboard's endpoints: what they tell, and to whom."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.dashboard.conftest import HOSTILE, KEY
from xrouter_lg.checkpoints.alias_log import audit
from xrouter_lg.checkpoints.aliases import read_alias
from xrouter_lg.dashboard.keeper import SnapshotKeeper
from xrouter_lg.dashboard.snapshot import take_snapshot
from xrouter_lg.dashboard.source import DashboardSource
from xrouter_lg.judge.traffic.savings import read_savings

OPEN = {"authorization": f"Bearer {KEY}"}


def moved(url: str, body: Any, **headers: str) -> httpx.Response:
    return httpx.post(f"{url}/dashboard/move", json=body, headers={**OPEN, **headers})


def test_the_figures_are_those_of_the_commands(source: DashboardSource) -> None:
    found = take_snapshot(source)
    savings = read_savings(
        source.store, since=source.since(), feedback="good", checkpoint=source.checkpoints / "good"
    ).to_json()
    assert found["savings"] == savings
    assert found["quality"]["scored"] == 133 and found["savings"]["requests"] == 133
    assert {one["card"] for one in found["health"]} == {"small", "large"}
    assert sum(one["requests"] for one in found["kinds"]) == 133
    assert sum(one["usd"] for one in found["over_time"]) == pytest.approx(savings["spent_usd"])
    assert {cell["card"] for cell in found["overlap"]["families"][0]["cells"]} == {"small", "large"}
    assert found["drift"]["checkpoint"] == found["checkpoint"]["version"]


def test_without_a_checkpoint_or_scores_it_says_what_is_missing(
    traces: Path, tmp_path: Path
) -> None:
    bare = DashboardSource(store=str(traces), checkpoints=tmp_path, feedback="nothing")
    found = take_snapshot(bare)
    assert found["drift"] is None and found["checkpoint"] is None
    assert "score" in found["overlap"]["unknown"]
    assert found["savings"]["against_because"].startswith("the dearest")


def test_the_page_is_empty_and_lets_nothing_run_but_its_own(url: str) -> None:
    page = httpx.get(f"{url}/dashboard")
    policy = page.headers["content-security-policy"]
    assert page.status_code == 200 and KEY not in page.text
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert "http" not in page.text.replace("http://www.w3.org", "")


@pytest.mark.parametrize("given", ["", "Bearer wrong", f"Basic {KEY}", KEY])
def test_nothing_is_told_without_the_key(url: str, given: str) -> None:
    for method, path in (("GET", "data"), ("POST", "move")):
        answer = httpx.request(method, f"{url}/dashboard/{path}", headers={"authorization": given})
        assert answer.status_code == 401
        assert set(answer.json()) == {"error"}


def test_the_data_come_with_the_latest_decisions_and_versions(url: str) -> None:
    told = httpx.get(f"{url}/dashboard/data", headers=OPEN).json()
    latest = told["now"]["decisions"][0]
    assert latest["text"].startswith(HOSTILE) and latest["route"] in ("small", "large")
    assert latest["reason"] and latest["propensity"] in (0.75, 0.25)
    assert [one["name"] for one in told["versions"]["checkpoints"]] == ["poor", "better", "good"]
    assert told["versions"]["aliases"][0]["checkpoint"] == "good"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "http://evil.example"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"host": "evil.example:80"}, 421),
    ],
    ids=["another origin", "another site", "another name for this machine"],
)
def test_what_comes_from_elsewhere_moves_nothing(
    url: str, checkpoints: Path, headers: dict[str, str], status: int
) -> None:
    body = {"action": "promote", "alias": "production", "checkpoint": "better"}
    assert moved(url, body, **headers).status_code == status
    assert read_alias(checkpoints, "production").checkpoint == "good"  # type: ignore[union-attr]


def test_promoting_and_rolling_back_are_logged_as_the_commands_are(
    url: str, checkpoints: Path
) -> None:
    body = {"action": "promote", "alias": "production", "checkpoint": "better"}
    assert moved(url, body).status_code == 200
    assert read_alias(checkpoints, "production").checkpoint == "better"  # type: ignore[union-attr]
    assert moved(url, {"action": "rollback", "alias": "production"}).status_code == 200
    assert read_alias(checkpoints, "production").checkpoint == "good"  # type: ignore[union-attr]
    assert [(one.action, one.by) for one in audit(checkpoints) if one.step == "done"][1:] == [
        ("promote", "dashboard"),
        ("rollback", "dashboard"),
    ]


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"action": "promote", "alias": "production", "checkpoint": "poor"}, 409, "against it"),
        ({"action": "promote", "alias": "production", "checkpoint": "../good"}, 400, "no check"),
        ({"action": "promote", "alias": "../x", "checkpoint": "good"}, 400, "alias is '../x'"),
        ({"action": "delete", "alias": "production"}, 400, "promote or rollback"),
        ({"action": "rollback", "alias": "production"}, 400, "nothing to roll back"),
        ([], 400, "must be JSON"),
    ],
    ids=[
        "against the verdict",
        "another folder",
        "another file",
        "no move",
        "no past",
        "no object",
    ],
)
def test_the_guard_is_that_of_the_command(
    url: str, checkpoints: Path, body: Any, status: int, words: str
) -> None:
    answer = moved(url, body)
    assert answer.status_code == status and words in answer.json()["error"]
    assert read_alias(checkpoints, "production").checkpoint == "good"  # type: ignore[union-attr]


def test_a_store_that_is_gone_is_told(tmp_path: Path, checkpoints: Path) -> None:
    from xrouter_lg.dashboard.routes import Dashboard
    from xrouter_lg.serve.run import running

    gone = DashboardSource(store=str(tmp_path / "none.db"), checkpoints=checkpoints)
    with running(Dashboard(gone, KEY).app()) as url:
        answer = httpx.get(f"{url}/dashboard/data", headers=OPEN)
    assert answer.status_code == 400 and "none.db" in answer.json()["error"]


# --- snapshots -------------------------------------------------------------------------------


def test_a_snapshot_is_taken_anew_only_after_a_change_and_a_rest() -> None:
    now, taken = [100.0], []

    def take() -> dict[str, Any]:
        taken.append(now[0])
        now[0] += 6.0  # it takes six seconds
        return {"n": len(taken)}

    keeper = SnapshotKeeper(take, every_s=30.0, clock=lambda: now[0])

    def look(state: int) -> int:
        keeper.current(state)
        keeper.wait(30)
        return int(keeper.current(state)["number"])

    assert look(1) == 1
    now[0] += 50  # ten times what it took is more than thirty seconds
    assert look(2) == 1
    now[0] += 20
    assert look(2) == 2
    now[0] += 1000
    assert look(2) == 2


def test_a_snapshot_that_fails_leaves_the_last_one_and_says_why() -> None:
    now, broken = [0.0], [False]

    def take() -> dict[str, Any]:
        if broken[0]:
            raise RuntimeError("no memory")
        return {"fine": True}

    keeper = SnapshotKeeper(take, clock=lambda: now[0])
    keeper.current(1)
    keeper.wait(30)
    broken[0], now[0] = True, 1000.0
    keeper.current(2)
    keeper.wait(30)
    found = keeper.current(2)
    assert found["snapshot"] == {"fine": True} and "no memory" in found["error"]
