"""Arms and shadows are the same in an episode from either source, and in the store's own tables."""

from __future__ import annotations

import pytest
from langchain_core.messages import HumanMessage
from typer.testing import CliRunner

from tests.episodes.captured import Captured
from tests.policies.rollout.shadows import WAIT_S, likes
from tests.support import apps
from tests.support.langsmith_server import forget_variables
from xrouter_lg import PromptedPolicy, Recorder, TraceStore, XRouterNode
from xrouter_lg.cli import traces as traces_command
from xrouter_lg.episodes.episode import Episode
from xrouter_lg.policies.rollout.canary import CanaryPolicy
from xrouter_lg.policies.rollout.shadow import ShadowPolicy
from xrouter_lg.testing import FakeOpenAIServer


def node(fake: FakeOpenAIServer, **options: object) -> XRouterNode:
    policy = ShadowPolicy(
        CanaryPolicy("fixed:small", "fixed:large", share=0.5), likes("large"), wait_s=WAIT_S
    )
    return XRouterNode(apps.pool(fake), policy=policy, **options)  # type: ignore[arg-type]


async def test_arm_and_shadow_are_the_same_from_every_source(
    fake: FakeOpenAIServer, captured: Captured
) -> None:
    graph = apps.app(node(fake))
    for number in range(4):
        captured.ask(graph, f"question {number}", configurable={"thread_id": f"t{number}"})
    mine = captured.ours()
    assert [one.to_dict() for one in mine] == [same.to_dict() for same in captured.theirs()]
    assert await captured.by_second_api() == mine
    for episode in mine:
        assert episode.arm is not None and episode.shadow is not None
        assert episode.arm["propensity"] == 0.5
        assert episode.route == ("large" if episode.arm["arm"] == "candidate" else "small")
        assert (episode.shadow["status"], episode.shadow["route"]) == ("proposed", "large")
        assert episode.shadow["policy_version"] == "shadow"
        assert episode.shadow_cost_usd == episode.shadow["cost_usd"] == "0"
        assert Episode.from_dict(episode.to_dict()) == episode


async def test_both_sources_can_be_looked_up_by_arm_and_shadow(
    fake: FakeOpenAIServer, captured: Captured
) -> None:
    captured.ask(apps.app(node(fake)), "hi", configurable={"thread_id": "t1"})
    (row,) = captured.store.routes()
    (ours,) = [run for run in captured.store.runs(row.trace_id) if run["id"] == row.run_id]
    theirs = captured.server.runs[row.run_id]
    for run in (ours, theirs):
        said = run["extra"]["metadata"]
        assert said["xrouter_arm"] == row.record.arm["arm"]  # type: ignore[index]
        assert said["xrouter_arm_propensity"] == 0.5
        assert said["xrouter_shadow"] == "says shadow"
        assert (said["xrouter_shadow_status"], said["xrouter_shadow_route"]) == (
            "proposed",
            "large",
        )
        assert said["xrouter_shadow_cost_usd"] == "0"


def test_a_paid_shadow_makes_no_run_and_no_trace_of_its_own(
    fake: FakeOpenAIServer, captured: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As in an app that traces everything by its environment.
    for name, value in (
        ("LANGSMITH_TRACING", "true"),
        ("LANGSMITH_ENDPOINT", captured.server.url),
        ("LANGSMITH_API_KEY", "lsv2_pt_test"),
    ):
        monkeypatch.setenv(name, value)
    forget_variables()
    monkeypatch.setattr("langsmith.run_trees._CLIENT", captured.client)
    guide = PromptedPolicy(apps.card(fake, "guide"))
    policy = ShadowPolicy("fixed:small", guide, wait_s=WAIT_S)
    captured.ask(apps.app(XRouterNode(apps.pool(fake), policy=policy)), "hi")
    forget_variables()
    assert {line.model for line in fake.bill} == {"small", "guide"}
    runs = [*captured.server.runs.values()]
    assert len({run["trace_id"] for run in runs}) == 1
    models = [run for run in runs if run["run_type"] == "llm"]
    assert len(models) == 1
    (episode,) = captured.ours()
    assert episode.shadow_cost_usd is not None and float(episode.shadow_cost_usd) > 0


def test_requests_without_either_are_as_they_were(
    fake: FakeOpenAIServer, captured: Captured
) -> None:
    captured.ask(apps.app(XRouterNode(apps.pool(fake), policy="fixed:small")), "hi")
    (episode,) = captured.ours()
    assert (episode.arm, episode.shadow, episode.shadow_cost_usd) == (None, None, "0")
    (row,) = captured.store.routes()
    (run,) = [run for run in captured.store.runs(row.trace_id) if run["id"] == row.run_id]
    assert not [key for key in run["extra"]["metadata"] if "shadow" in key or "arm" in key]


def test_an_episode_of_before_is_read(fake: FakeOpenAIServer, captured: Captured) -> None:
    captured.ask(apps.app(XRouterNode(apps.pool(fake), policy="fixed:small")), "hi")
    (episode,) = captured.ours()
    data = episode.to_dict()
    del data["arm"], data["shadow_cost_usd"]
    for turn in data["decisions"]:
        del turn["shadow"], turn["quality"]
    old = Episode.from_dict(data)
    assert (old.arm, old.shadow) == (None, None)


@pytest.mark.parametrize("prompts", ["full", "hashed"])
def test_hashed_prompts_hide_nothing_of_arm_and_shadow(
    prompts: str, fake: FakeOpenAIServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("t") / "t.db"
    with Recorder(path, prompts=prompts) as recorder:  # type: ignore[arg-type]
        graph = apps.app(node(fake, traces=recorder))
        graph.invoke({"messages": [HumanMessage("a secret")]}, apps.options(thread_id="t1"))
    with TraceStore(path) as store:
        (row,) = store.routes()
    record = row.record
    assert record.arm is not None
    assert record.arm["arm"] in ("main", "candidate") and record.arm["salt"] == "canary"
    shadow = record.decisions[0]["shadow"]
    assert (shadow["status"], shadow["route"], shadow["calls"]) == (
        "proposed",
        "large",
        [{"card": "large"}],
    )


def test_traces_show_tells_arm_and_shadow(fake: FakeOpenAIServer, captured: Captured) -> None:
    captured.ask(apps.app(node(fake)), "hi", configurable={"thread_id": "t1"})
    (row,) = captured.store.routes()
    path = str(captured.folder / "t.db")
    shown = CliRunner().invoke(traces_command.app, ["show", row.trace_id, "--store", path])
    assert shown.exit_code == 0, shown.output
    assert f"{row.record.arm['arm']} of a canary" in shown.output  # type: ignore[index]
    assert "says shadow proposed large" in shown.output
