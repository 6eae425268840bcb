"""A checkpoint as a policy in this process: a tiny real model, its adapter, and a routed graph."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
import torch
from langchain_core.messages import HumanMessage
from langgraph.graph import START, MessagesState, StateGraph

from tests.tiny_model import write_tiny_base
from training.base_model import Base, load_base
from training.export import export
from training.warm_start import SlotModel, WarmStartConfig, slot_model
from xrouter_lg import ModelCard, ModelPool, XRouterNode
from xrouter_lg.checkpoint import CardStats, CheckpointError, DialPoint, Manifest
from xrouter_lg.policies.checkpoint import CheckpointPolicy
from xrouter_lg.prompts import slots
from xrouter_lg.testing import FakeOpenAIServer, ScriptedChatModel
from xrouter_lg.types import RouteRequest

pytestmark = pytest.mark.train

NAMES = ("small", "medium", "large")
LINES = tuple(f"{name} one" for name in NAMES)
PRICES = ((0.1, 0.2), (1.0, 2.0), (10.0, 20.0))
QUESTIONS = ("hi", "What is 17 * 23?", "Write a poem about the sea. " * 12)


def pool(factor: float = 1.0) -> ModelPool:
    return ModelPool(
        ModelCard(
            name=name,
            model=ScriptedChatModel([f"{name} answers"]),
            price={"input": price[0] * factor, "output": price[1] * factor},
        )
        for name, price in zip(NAMES, PRICES, strict=True)
    )


def request(text: str, cost_weight: float = 0.0, target: float | None = None) -> RouteRequest:
    return RouteRequest(
        messages=[HumanMessage(text)],
        cost_weight=cost_weight,
        quality_target=target,
        prompt_tokens=50,
    )


def manifest(base: Base) -> Manifest:
    cards = tuple(
        CardStats(name, line, prior, 0.1, 100.0, cost, None)
        for name, line, prior, cost in zip(
            NAMES, LINES, (0.0, 1.0, 2.0), (1e-5, 1e-4, 1e-3), strict=True
        )
    )
    dial = (DialPoint(0.0, 0.9, 1e-3, 1.0), DialPoint(5.0, 0.8, 1e-5, 1.0))
    return Manifest(
        base=base.identity,
        cards=cards,
        c_ref_usd=1e-3,
        best_fixed="large",
        weights="adapter",
        dial=dial,
    )


def trained(base: Base) -> SlotModel:
    """An adapter that does something: LoRA's second matrix starts at zero."""
    slot = slot_model(base, np.array([0.0, 1.0, 2.0]), WarmStartConfig(frozen_layers=1))
    torch.manual_seed(1)
    for name, parameter in slot.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return slot


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def adapter(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = load_base(base_folder)
    folder = tmp_path_factory.mktemp("out") / "adapter"
    export(folder, trained(base), base, manifest(base))
    return folder


@pytest.fixture(scope="module")
def merged(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = load_base(base_folder)
    folder = tmp_path_factory.mktemp("out") / "merged"
    export(folder, trained(base), base, manifest(base), weights="merged")
    return folder


@pytest.fixture
def policy(adapter: Path, base_folder: Path) -> Iterator[CheckpointPolicy]:
    policy = CheckpointPolicy(adapter, base=base_folder)
    yield policy
    policy.close()


async def test_probabilities_are_those_of_one_plain_forward_pass(
    policy: CheckpointPolicy, base_folder: Path
) -> None:
    base = load_base(base_folder)
    slot = trained(base)
    slot.model.eval()
    for text in QUESTIONS:
        proposal = await policy.propose(request(text), pool().cards)
        assert proposal.token_ids is not None
        ids = proposal.token_ids["prompt_token_ids"]
        prompt = slots.render([HumanMessage(text)], LINES).text
        assert ids == base.tokenizer.encode(prompt, add_special_tokens=False)
        with torch.no_grad():
            logits = slot.model(torch.tensor([ids])).logits[0, -1]
        for m, name in enumerate(NAMES):
            contrast = logits[slot.slot_ids[m]] - logits[slot.anchor_id]
            expected = torch.sigmoid(contrast + (0.0, 1.0, 2.0)[m] - 0.1)
            assert proposal.quality is not None
            assert proposal.quality[name] == pytest.approx(float(expected), abs=1e-4)


async def test_adapter_and_merged_model_propose_the_same(
    policy: CheckpointPolicy, merged: Path
) -> None:
    whole = CheckpointPolicy(merged)
    one = await policy.propose(request(QUESTIONS[1]), pool().cards)
    other = await whole.propose(request(QUESTIONS[1]), pool().cards)
    whole.close()

    assert one.quality == pytest.approx(other.quality, abs=1e-4)


async def test_requests_that_share_a_pass_do_not_change_each_other(
    policy: CheckpointPolicy,
) -> None:
    alone = [await policy.propose(request(text), pool().cards) for text in QUESTIONS]
    together = await asyncio.gather(
        *(policy.propose(request(text), pool().cards) for text in QUESTIONS * 10)
    )

    for i, proposal in enumerate(together):
        assert proposal.quality == pytest.approx(alone[i % len(QUESTIONS)].quality, abs=1e-4)


async def test_a_larger_cost_weight_never_takes_a_dearer_card(policy: CheckpointPolicy) -> None:
    cost = {name: price[1] for name, price in zip(NAMES, PRICES, strict=True)}
    for text in QUESTIONS:
        taken = []
        for weight in (0.0, 0.01, 0.1, 0.3, 1.0, 3.0, 30.0, 1000.0):
            proposal = await policy.propose(request(text, weight), pool().cards)
            taken.append(cost[max(proposal.probabilities, key=proposal.probabilities.__getitem__)])
        assert taken == sorted(taken, reverse=True)
        assert taken[-1] == min(cost.values())


async def test_a_new_price_acts_at_once_and_leaves_the_quality_alone(
    policy: CheckpointPolicy,
) -> None:
    before = await policy.propose(request(QUESTIONS[1], 0.3), pool().cards)
    after = await policy.propose(request(QUESTIONS[1], 0.3), pool(factor=10.0).cards)

    assert before.quality == after.quality
    assert before.probabilities != after.probabilities


async def test_candidates_may_be_fewer_reordered_or_new(policy: CheckpointPolicy) -> None:
    whole = await policy.propose(request(QUESTIONS[1]), pool().cards)
    new = ModelCard(name="new", model=ScriptedChatModel(["x"]), price={"input": 1, "output": 1})
    some = await policy.propose(request(QUESTIONS[1]), [new, pool()["large"]])

    assert set(some.probabilities) == {"new", "large"}
    assert whole.quality is not None and some.quality is not None
    assert some.quality["large"] == pytest.approx(whole.quality["large"], abs=1e-5)
    assert some.quality["new"] == pytest.approx(1 / (1 + np.exp(-1.0)))


async def test_a_quality_target_becomes_the_dials_cost_weight(policy: CheckpointPolicy) -> None:
    assert policy.cost_weight(request("hi", 0.7)) == 0.7
    assert policy.cost_weight(request("hi", 0.7, target=0.85)) == 5.0


def test_one_policy_serves_several_event_loops(policy: CheckpointPolicy) -> None:
    policy.warm_up()
    first = asyncio.run(policy.propose(request("hi"), pool().cards))
    second = asyncio.run(policy.propose(request("hi"), pool().cards))

    assert first.quality == pytest.approx(second.quality, abs=1e-6)


async def test_a_routed_graph_answers_by_the_checkpoint(
    policy: CheckpointPolicy, fake: FakeOpenAIServer
) -> None:
    builder = StateGraph(MessagesState)
    builder.add_node("model", XRouterNode(pool(), policy=policy, cost_weight=1000.0))
    builder.add_edge(START, "model")

    state = await builder.compile().ainvoke({"messages": [HumanMessage("hello")]})

    record = state["messages"][-1].response_metadata["xrouter"]
    assert record["route"] == "small"
    assert record["policy"] == "checkpoint"
    assert record["policy_version"] == policy.version
    assert record["prompt_hash"] == slots.prompt_hash()
    assert Decimal(record["cost_usd"]) > 0


def test_an_adapter_without_its_base_says_which_base_it_needs(adapter: Path) -> None:
    with pytest.raises(CheckpointError, match=r"adapter for 'tiny'; give base=FOLDER"):
        CheckpointPolicy(adapter)


def test_another_base_is_refused_at_load(adapter: Path, tmp_path: Path) -> None:
    other = write_tiny_base(tmp_path / "other", layers=4)
    policy = CheckpointPolicy(adapter, base=other)

    with pytest.raises(CheckpointError, match="weights differ"):
        policy.warm_up()


def test_an_adapter_is_a_plain_peft_adapter_in_safetensors(adapter: Path) -> None:
    names = {path.name for path in adapter.iterdir()}

    assert {"adapter_model.safetensors", "adapter_config.json", "manifest.json"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl"))]


def test_the_manifest_holds_no_path_of_this_machine(adapter: Path, base_folder: Path) -> None:
    for path in adapter.glob("*.json"):
        assert str(base_folder) not in path.read_text(), path.name


def test_replacing_a_manifests_price_changes_its_version(base_folder: Path) -> None:
    one = manifest(load_base(base_folder))
    assert one.version != replace(one, c_ref_usd=1.0).version
