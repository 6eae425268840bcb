"""What a backfill leaves in the table: outcomes, columns of others, answers that can't be read."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.backfill.world import World, echo, models
from xrouter_lg.backfill import BackfillError, Grader
from xrouter_lg.backfill.results import merged
from xrouter_lg.json_text import to_json
from xrouter_lg.outcomes import OUTCOME_COLUMNS, OutcomeError, OutcomeTable
from xrouter_lg.testing import (
    FakeModel,
    FakeOpenAIServer,
)


async def test_answers_reach_the_table_while_the_run_goes_on(
    tmp_path: Path, server: FakeOpenAIServer
) -> None:
    for model in models(latency_s=0.02):
        server.add_model(model)
    heights: list[int] = []

    def seen(body: dict[str, Any]) -> str:
        heights.append(world.outcomes.height)
        return echo(body)

    server.add_model(FakeModel(name="medium", reply=seen, latency_s=0.02))
    world = World(tmp_path, server, prompts=40)
    await world.run(conditions={"write_every_s": 0.02, "concurrency": 4})
    assert heights == sorted(heights), "never less than before"
    assert [height for height in heights if 40 < height < 120]
    assert world.outcomes.height == 120


async def test_the_apps_traces_do_not_grow_by_a_backfill(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    from langchain_core.tracers import langchain as tracer

    made: list[Any] = []
    monkeypatch.setattr(tracer.LangChainTracer, "__init__", lambda self, *a, **k: made.append(self))
    monkeypatch.setenv("LANGSMITH_TRACING", "true")
    monkeypatch.setenv("LANGSMITH_API_KEY", "not-a-key")
    await world.run(limit=2)
    assert made == []


async def test_several_answers_make_one_outcome_their_mean(
    world: World, server: FakeOpenAIServer
) -> None:
    said = iter(["7", "wrong", "7", "7"])
    server.add_model(FakeModel(name="medium", reply=lambda body: next(said)))
    world.write_table([world.prompt(7)])
    grader = Grader.from_yaml(world.verifiers("exact"))
    tally = await world.run(
        cards=["medium"], repeat=4, grader=grader, conditions={"concurrency": 1}
    )
    assert tally.answered == {"medium": 4}
    row = world.outcome("p7", "medium")
    assert (row["score"], row["response"], row["scored_by"]) == (0.75, "7", "exact")


async def test_models_that_the_table_calls_otherwise_are_the_same_card(world: World) -> None:
    prompts = [world.prompt(0)]
    row = {"source": "traces", "task": "numbers", "prompt_id": "p0", "score": 1.0, "cost_usd": 1e-3}
    world.write_table(prompts, [{**row, "model": "Large"}, {**row, "model": "gpt-old"}])
    with pytest.raises(BackfillError, match="no model 'gpt'"):
        world.open(rename={"gpt": "small"})
    await world.run(rename={"gpt-old": "small"})
    assert Counter(model for model, _ in world.asked()) == {"medium": 1}
    assert sorted(world.outcomes["model"]) == ["Large", "gpt-old", "medium"]


async def test_columns_and_outcomes_of_others_stay_as_they_were(world: World) -> None:
    path = world.folder / "outcomes.parquet"
    before = pl.read_parquet(path).with_columns(note=pl.lit("mine"))
    before.write_parquet(path)
    await world.run(limit=3)
    after = world.outcomes
    assert after.filter(pl.col("model") == "large").select(before.columns).equals(before)
    assert after.filter(pl.col("model") != "large")["note"].null_count() == 6


async def test_a_broken_table_is_refused_before_anything_is_asked(world: World) -> None:
    path = world.folder / "outcomes.parquet"
    pl.read_parquet(path).with_columns(score=pl.lit(7.0)).write_parquet(path)
    with pytest.raises(OutcomeError, match="outside"):
        world.open()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"limit": 0}, "limit is 0"),
        ({"repeat": 0}, "repeat is 0"),
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"strategy": "best"}, "'value' or 'random'"),
        ({"rounds": 0}, "rounds is 0"),
        ({"cost_weight": -1.0}, "cost_weight is -1.0"),
        ({"horizon_requests": 0}, "horizon_requests is 0"),
    ],
)
def test_a_bad_option_is_named(world: World, changed: dict[str, Any], said: str) -> None:
    with pytest.raises(BackfillError, match=said):
        world.open(**changed)


async def test_half_an_emoji_in_an_answer_is_kept_as_a_replacement(
    world: World, server: FakeOpenAIServer
) -> None:
    server.add_model(FakeModel(name="small", reply="cut \ud83d"))
    tally = await world.run(grader=Grader.from_yaml(world.verifiers("exact")))
    assert tally.answered == {"small": 12, "medium": 12}
    assert world.outcome("p3", "small")["response"] == "cut �"


@pytest.mark.parametrize("broken", ["flaw_of", "served_model"])
async def test_an_answer_that_breaks_its_reader_costs_its_own_outcome(
    world: World, server: FakeOpenAIServer, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    from xrouter_lg.calls import attempt, bill

    module = attempt if broken == "flaw_of" else bill
    read = getattr(module, broken)

    def reader(message: Any) -> Any:
        if message.content == "3":
            raise RuntimeError("nobody thought of this")
        return read(message)

    monkeypatch.setattr(module, broken, reader)
    tally = await world.run()
    assert tally.stopped == "done"
    assert tally.failed == {("small", "malformed"): 1, ("medium", "malformed"): 1}
    assert tally.answered == {"small": 11, "medium": 11}
    row = world.outcome("p3", "medium")
    assert (row["response"], row["score"]) == (None, None)
    assert "nobody thought of this" in row["scored_by"]
    lost = [charge for charge in world.charges() if charge["error"] == "malformed"]
    assert all(charge["held_usd"] is not None for charge in lost), "it may have been paid"


async def test_an_answer_that_cannot_be_kept_is_a_failed_outcome_and_paid_for(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    from xrouter_lg.backfill import cache

    keep = to_json

    def keeper(message: Any) -> str:
        if message["data"]["content"] == "5":
            raise OverflowError("too large for this file")
        return keep(message)

    monkeypatch.setattr(cache, "to_json", keeper)
    tally = await world.run()
    assert tally.failed == {("small", "malformed"): 1, ("medium", "malformed"): 1}
    assert "too large for this file" in world.outcome("p5", "small")["scored_by"]
    paid = [charge for charge in world.charges() if charge["cost_usd"] is not None]
    assert len(paid) == 24


def test_what_the_log_knows_of_an_answer_stays_with_it() -> None:
    key = {"source": "traces", "task": "numbers", "prompt_id": "p0"}
    logged = {"propensity": 0.25, "observed_at": 5.0, "feedback": 1.0, "served_model": "large-7"}
    prompt = {**key, "prompt": "Say the number 0"}
    same = {**key, "model": "large", "score": None, "response": "0", **logged}
    other = {**key, "model": "small", "score": None, "response": "zero", **logged}
    table = OutcomeTable.from_rows([same, other], [prompt])
    judged = [{**dict.fromkeys(OUTCOME_COLUMNS), **key, "score": 1.0, "response": "0"}]
    found = merged(
        table, [{**judged[0], "model": "large"}, {**judged[0], "model": "small"}]
    ).outcomes.collect()
    rows = {row["model"]: row for row in found.iter_rows(named=True)}
    assert {name: rows["large"][name] for name in logged} == logged
    # Another answer than the logged one was not drawn, and nobody said anything of it.
    assert {name: rows["small"][name] for name in logged} == dict.fromkeys(logged)
    assert [row["score"] for row in rows.values()] == [1.0, 1.0]
