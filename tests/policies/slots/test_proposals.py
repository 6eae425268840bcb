"""A checkpoint as a policy in this process: a tiny real model, its adapter, and a routed graph."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from langchain_core.messages import HumanMessage
from langgraph.graph import START, MessagesState, StateGraph
from safetensors.numpy import save_file
from transformers import AutoTokenizer

from tests.policies.slots.engines import QUESTIONS
from tests.support import tiny_checkpoint
from tests.support.heads import labelled_head
from tests.support.tiny_checkpoint import (
    CENTRE,
    NAMES,
    PRICES,
    PRIORS,
    conversations,
    line,
    pool,
    request,
    trained,
)
from training.model.base import load_base
from xrouter_lg import ModelCard, XRouterNode
from xrouter_lg.checkpoints.family_head import HEAD_FILE
from xrouter_lg.checkpoints.folder import verify, write_checkpoint
from xrouter_lg.checkpoints.manifest import CheckpointError, Manifest
from xrouter_lg.fitting.family_head import head_stats
from xrouter_lg.policies.head import HeadPolicy
from xrouter_lg.policies.slots.policy import CheckpointPolicy
from xrouter_lg.policies.slots.prompts import SlotPrompts, blocks_of, card_blocks
from xrouter_lg.prompts import slots
from xrouter_lg.testing import FakeOpenAIServer, ScriptedChatModel
from xrouter_lg.value.features import Features

pytestmark = pytest.mark.train


def whole_prompt(text: str, names: Sequence[str]) -> str:
    prefix = slots.render_prefix([line(name) for name in names])
    return prefix + slots.render_question([HumanMessage(text)])


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
        prompt = whole_prompt(text, NAMES)
        assert ids == base.tokenizer.encode(prompt, add_special_tokens=False)
        with torch.no_grad():
            logits = slot.model(torch.tensor([ids])).logits[0, -1]
        for m, name in enumerate(NAMES):
            contrast = logits[slot.slot_ids[m]] - logits[slot.anchor_id]
            expected = torch.sigmoid(contrast + PRIORS[m] - CENTRE)
            assert proposal.quality is not None
            assert proposal.quality[name] == pytest.approx(float(expected), abs=1e-4)


def test_token_ids_are_those_of_transformers(adapter: Path, policy: CheckpointPolicy) -> None:
    tokenizer = AutoTokenizer.from_pretrained(str(adapter))
    prompts = SlotPrompts(policy.manifest, adapter)
    for messages in conversations(100):
        question = slots.render_question(messages)
        expected = tokenizer.encode(question, add_special_tokens=False)
        assert prompts.question_ids(question) == expected


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


async def test_without_the_cached_block_the_numbers_are_the_same(
    policy: CheckpointPolicy, adapter: Path, base_folder: Path
) -> None:
    plain = CheckpointPolicy(adapter, base=base_folder, cache_prefix=False)
    for text in QUESTIONS:
        one = await policy.propose(request(text), pool().cards)
        other = await plain.propose(request(text), pool().cards)
        assert one.quality == pytest.approx(other.quality, abs=1e-4)
    plain.close()


async def test_bfloat16_moves_probabilities_by_hundredths_at_most(
    policy: CheckpointPolicy, adapter: Path, base_folder: Path
) -> None:
    half = CheckpointPolicy(adapter, base=base_folder, dtype="bfloat16")
    for text in QUESTIONS:
        one = await policy.propose(request(text), pool().cards)
        other = await half.propose(request(text), pool().cards)
        assert one.quality == pytest.approx(other.quality, abs=0.05)
        assert one.quality != other.quality
    half.close()


def test_a_dtype_that_is_none_is_refused(adapter: Path, base_folder: Path) -> None:
    with pytest.raises(CheckpointError, match="dtype is 'int8'; it must be"):
        CheckpointPolicy(adapter, base=base_folder, dtype="int8")  # type: ignore[arg-type]


async def test_more_cards_than_letters_are_read_in_several_prompts(
    base_folder: Path, tmp_path: Path
) -> None:
    names = tuple(f"card_{i}" for i in range(20))
    folder = tiny_checkpoint.write(tmp_path / "wide", base_folder, names=names)
    policy = CheckpointPolicy(folder, base=base_folder)
    cards = [ModelCard(name=name, model=ScriptedChatModel(["x"])) for name in names]

    proposal = await policy.propose(request(QUESTIONS[1]), cards)

    base = load_base(base_folder)
    slot = trained(base)
    slot.model.eval()
    for part in (names[:16], names[16:]):
        text = whole_prompt(QUESTIONS[1], part)
        ids = base.tokenizer.encode(text, add_special_tokens=False)
        with torch.no_grad():
            logits = slot.model(torch.tensor([ids])).logits[0, -1]
        for letter, name in zip(slots.CARD_SLOTS, part, strict=False):
            contrast = logits[base.slot_ids[letter]] - logits[slot.anchor_id]
            expected = torch.sigmoid(contrast + PRIORS[names.index(name) % 3] - CENTRE)
            assert proposal.quality is not None
            assert proposal.quality[name] == pytest.approx(float(expected), abs=1e-4)

    few = await policy.propose(request(QUESTIONS[1]), cards[16:])
    assert few.token_ids is not None
    assert few.token_ids["prompt_token_ids"] == ids
    assert few.quality == pytest.approx({name: proposal.quality[name] for name in names[16:]})
    both, alone = (policy.estimate([request(QUESTIONS[1])], own)[0] for own in (cards, cards[16:]))
    assert both.router_tokens > alone.router_tokens == len(ids) + 1
    policy.close()


def test_blocks_hold_as_many_cards_as_the_manifest_says(base_folder: Path) -> None:
    names = tuple(f"card_{i}" for i in range(20))
    whole = tiny_checkpoint.manifest(load_base(base_folder), names)

    def cut_by(blocks: tuple[int, ...]) -> Manifest:
        return replace(whole, language_model=replace(whole.model, blocks=blocks))

    cut = cut_by((3, 16, 1))

    assert [len(cards) for cards in card_blocks(whole)] == [16, 4]
    assert [len(cards) for cards in card_blocks(cut)] == [3, 16, 1]
    assert [card for cards in card_blocks(cut) for card in cards] == list(cut.cards)
    assert blocks_of(cut, ["card_19", "card_0", "new"]) == (0, 2)
    assert blocks_of(cut, ["new"]) == (0,)
    assert Manifest.from_dict(cut.to_dict()).model.blocks == (3, 16, 1)
    assert Manifest.from_dict(whole.to_dict()) == whole
    for wrong in ((3, 17), (3, 16), (20, 0)):
        with pytest.raises(CheckpointError, match="do not cut 20 cards"):
            Manifest.from_dict(cut_by(wrong).to_dict())


async def test_without_a_language_model_none_is_loaded_or_paid_for(
    base_folder: Path, tmp_path: Path
) -> None:
    texts = [f"{kind} {n} and more" for n in range(20) for kind in ("sum of", "poem on")]
    right = np.array([[float("sum" in text), 1.0, 0.2] for text in texts])[:, : len(NAMES)]
    score = np.pad(right, ((0, 0), (0, len(NAMES) - right.shape[1])))
    cost = np.tile(np.arange(1, len(NAMES) + 1) * 1e-4, (len(texts), 1))
    head = labelled_head(texts, [text[:4] for text in texts], score, cost, NAMES)
    assert head is not None
    both = tiny_checkpoint.write(
        tmp_path / "both",
        base_folder,
        head=head,
        family_head=head_stats(head, Features.of(texts), share=0.5),
    )
    written = replace(
        verify(both),
        kind="head",
        language_model=None,
        family_head=head_stats(head, Features.of(texts), share=1.0),
    )
    write_checkpoint(
        tmp_path / "alone", written, lambda target: save_file(head.arrays, target / HEAD_FILE)
    )

    alone = HeadPolicy(tmp_path / "alone")  # no base anywhere
    alone.warm_up()
    proposal = await alone.propose(request("sum of 7 and more"), pool().cards)
    assert proposal.token_ids is None and proposal.prompt_hash is None
    expected = head.read("sum of 7 and more").quality
    assert proposal.quality == pytest.approx(expected, abs=1e-6)
    (estimate,) = alone.estimate([request("sum of 7 and more")], pool().cards)
    assert estimate.router_tokens == 0
    assert estimate.expected.quality == proposal.quality
    # With a share for the language model the same checkpoint needs it.
    with pytest.raises(CheckpointError, match="base"):
        CheckpointPolicy(both)


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


async def test_an_estimate_is_what_a_proposal_expects(policy: CheckpointPolicy) -> None:
    wanted = [request(text, 0.3) for text in QUESTIONS]
    estimates = await asyncio.to_thread(policy.estimate, wanted, pool().cards)

    for asked, estimate in zip(wanted, estimates, strict=True):
        proposal = await policy.propose(asked, pool().cards)
        assert proposal.quality == pytest.approx(estimate.expected.quality, abs=1e-5)
        assert proposal.token_ids is not None
        assert estimate.router_tokens == len(proposal.token_ids["prompt_token_ids"]) + 1


def test_one_policy_serves_several_event_loops(policy: CheckpointPolicy) -> None:
    policy.warm_up()
    first = asyncio.run(policy.propose(request("hi"), pool().cards))
    second = asyncio.run(policy.propose(request("hi"), pool().cards))

    assert first.quality == pytest.approx(second.quality, abs=1e-6)


def test_one_policy_serves_many_threads(policy: CheckpointPolicy) -> None:
    expected = asyncio.run(policy.propose(request("hi"), pool().cards)).quality
    found: list[Any] = []

    def ask() -> None:
        found.extend(
            asyncio.run(policy.propose(request("hi"), pool().cards)).quality for _ in range(5)
        )

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(found) == 30
    assert all(quality == pytest.approx(expected, abs=1e-4) for quality in found)


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
