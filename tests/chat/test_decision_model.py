"""A policy as the classifier of LangChain's own router, and what its traces teach."""

from __future__ import annotations

from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.decisions import Choice, Noul
from langchain_core.messages import HumanMessage

from tests.support.apps import ask, pool
from xrouter_lg import Exploration, ModelPool, Recorder
from xrouter_lg.chat.decision import XRouterDecisionModel
from xrouter_lg.episodes.extract import episodes
from xrouter_lg.errors import ConfigurationError, RequestError
from xrouter_lg.testing import FakeOpenAIServer

middleware = pytest.importorskip("langchain.agents.middleware")
if not hasattr(middleware, "ModelRouterMiddleware"):
    pytest.skip("langchain 1.5 brings the router", allow_module_level=True)


def question(*labels: str) -> dict[str, Any]:
    return {"which": Choice(instructions="Which model?", criteria=dict.fromkeys(labels, "fits"))}


def asked(*labels: str, state: Any = "Hi") -> Any:
    return {"state": state, "questions": question(*labels)}


def agent_of(cards: ModelPool, server: FakeOpenAIServer, **options: Any) -> Any:
    from langchain_openai import ChatOpenAI

    models = {
        name: middleware.ModelChoice(
            model=ChatOpenAI(model=name, base_url=server.base_url, api_key="k"),  # type: ignore[arg-type]
            criteria="fits",
        )
        for name in cards.names
    }
    router = middleware.ModelRouterMiddleware(
        choices=models,
        instructions="Choose.",
        classifier=XRouterDecisionModel(cards, **options),
    )
    return create_agent(next(iter(models.values())).model, middleware=[router])


@pytest.mark.parametrize("way", ["sync", "async"])
async def test_the_policy_chooses_among_the_labels(way: str, fake: FakeOpenAIServer) -> None:
    model = XRouterDecisionModel(pool(fake, "small", "medium", "large"), policy="fixed:large")
    given = asked("small", "large", state=[HumanMessage("Hi")])
    told = model.invoke(given) if way == "sync" else await model.ainvoke(given)
    answer = told.choices["which"]
    assert (answer.choice, answer.probabilities) == ("large", {"small": 0.0, "large": 1.0})
    assert told.request_id
    assert not fake.requests


async def test_probabilities_are_those_that_the_choice_was_drawn_with(
    fake: FakeOpenAIServer,
) -> None:
    def unsure(request: Any, candidates: Any) -> dict[str, float]:
        return {"small": 0.75, "large": 0.25}

    exploration = Exploration(rate=0.5, share_of_spend=None, floor=0.1)
    model = XRouterDecisionModel(pool(fake), policy=unsure, exploration=exploration)
    answer = (await model.ainvoke(asked("small", "large"))).choices["which"]
    assert sum(answer.probabilities.values()) == pytest.approx(1.0)
    assert 0.0 < answer.probabilities["large"] < 1.0
    assert answer.confidence == answer.probabilities[answer.choice]


async def test_what_it_can_not_answer_is_named(fake: FakeOpenAIServer) -> None:
    model = XRouterDecisionModel(pool(fake))
    with pytest.raises(RequestError, match=r"offers 'fast', which is no card .*: small, large"):
        await model.ainvoke(asked("small", "fast"))
    noul: Any = {"state": "Hi", "questions": {"q": Noul(instructions="Is it?")}}
    with pytest.raises(RequestError, match="question 'q' is a Noul"):
        await model.ainvoke(noul)
    with pytest.raises(ConfigurationError, match="pool is None"):
        XRouterDecisionModel()


async def test_langchains_router_obeys_it(fake: FakeOpenAIServer) -> None:
    state = await agent_of(pool(fake), fake, policy="fixed:large").ainvoke(ask())
    assert state["messages"][-1].text.startswith("large says")
    assert state["model_route"].choice == "large"


async def test_its_traces_teach_what_was_chosen_and_how(
    fake: FakeOpenAIServer, tmp_path: Any
) -> None:
    cards = pool(fake)
    agent = agent_of(cards, fake, policy="mix:small=0.25,large=0.75")
    with Recorder(tmp_path / "traces.db") as recorder:
        state = await agent.ainvoke(ask(), {"callbacks": [recorder]})
        assert recorder.flush(10)
        (trace,) = recorder.store.find("", limit=10)
        runs = recorder.store.runs(trace)
    (episode,) = episodes(runs, pool=cards)
    chosen = state["model_route"].choice
    assert (episode.route, episode.routed) == (chosen, False)
    assert episode.propensity == state["model_route"].probabilities[chosen]
    assert episode.policy == "mix"
    assert episode.answer == state["messages"][-1].text
