"""`xrouter backfill`: what it shows, and how it ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from tests.backfill.world import World
from xrouter_lg.cli.backfill import app
from xrouter_lg.testing import FakeOpenAIServer, FaultPlan, always, faults


@pytest.fixture
def world(tmp_path: Path, server: FakeOpenAIServer, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setenv("COLUMNS", "200")
    return World(tmp_path, server)


def run(world: World, *options: str, budget: str = "1") -> Result:
    return CliRunner().invoke(
        app,
        [
            *(str(world.folder), f"--pool={world.pool_file}", f"--budget-usd={budget}"),
            *("--strategy=random", *options),
        ],
        catch_exceptions=False,
    )


def as_json(result: Result) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(result.stdout)
    return said


def test_a_dry_run_shows_cards_counts_and_costs_and_asks_nothing(world: World) -> None:
    result = run(world, "--dry-run")
    assert result.exit_code == 0
    assert "expected USD" in result.stdout
    assert "12 prompts" in result.stdout
    assert "Nothing was asked" in result.stdout
    assert world.server.requests == []
    said = as_json(run(world, "--dry-run", "--json"))
    assert (said["calls"], said["prompts"]) == (24, 12)
    assert world.server.requests == []


def test_a_run_says_what_it_did_and_what_it_cost(world: World) -> None:
    result = run(world, f"--verifiers={world.verifiers('exact')}")
    assert result.exit_code == 0
    assert "24 answers for $" in result.stdout
    assert "24/24 calls" in result.stderr
    assert f"${world.billed_usd():f}" in result.stdout
    again = as_json(run(world, "--json"))
    assert (again["calls"], again["stopped"]) == (0, "done")
    assert again["spending"]["known_usd"] == f"{world.billed_usd():f}"


def test_a_used_up_budget_is_no_failure_and_says_how_to_go_on(world: World) -> None:
    result = run(world, budget="0.0004")
    assert result.exit_code == 0
    assert "raise --budget-usd" in result.stdout
    assert "--new-budget" in result.stdout


def test_a_card_that_was_given_up_on_is_exit_code_one(
    world: World, server: FakeOpenAIServer
) -> None:
    server.faults = FaultPlan({"small": always(faults.auth_error())})
    result = run(world)
    assert result.exit_code == 1
    assert "gave up on small: auth" in result.stdout
    assert "12 answers" in result.stdout


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--cards=small,huge"], "--cards names 'huge'"),
        (["--strategy=best"], "strategy is 'best'"),
        (["--rounds=0"], "rounds is 0"),
        (["--horizon-requests=0"], "horizon_requests is 0"),
        (["--cost-weight=-1"], "cost_weight is -1"),
        (["--rename=x=small"], "no model 'x'"),
        (["--verifiers=nowhere.yaml"], "nowhere.yaml"),
        (["--concurrency=0"], "concurrency is 0"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_two(
    world: World, options: list[str], said: str
) -> None:
    result = run(world, *options)
    assert result.exit_code == 2
    assert said in result.stderr.replace("\n", " ").replace("│", "")
    assert "Traceback" not in result.output
    assert world.server.requests == []


@pytest.mark.parametrize("budget", ["0", "-1", "many", "nan"])
def test_a_budget_that_is_none_is_refused(world: World, budget: str) -> None:
    result = run(world, budget=budget)
    assert result.exit_code == 2
    assert "budget_usd" in result.stderr


def test_an_empty_folder_is_named(world: World, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    world.folder = empty
    result = run(world)
    assert result.exit_code == 2
    assert "no outcomes.parquet" in result.stderr
    assert not list(empty.iterdir()), "no cache is made where there is no table"


def test_a_card_without_a_price_is_shown_by_a_dry_run_and_refused_by_a_run(world: World) -> None:
    world.write_pool(small={"price": None})
    dry = run(world, "--dry-run")
    assert dry.exit_code == 0
    assert "price unknown" in dry.stdout
    real = run(world)
    assert real.exit_code == 2
    assert "--allow-unknown-price" in real.stderr
    assert run(world, "--allow-unknown-price").exit_code == 0
