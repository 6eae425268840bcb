"""A checkpoint as a policy in this process: a tiny real model, its adapter, and a routed graph."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
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
from transformers import AutoTokenizer, GraniteForCausalLM

from tests.support import tiny_checkpoint
from tests.support.heads import labelled_head
from tests.support.tiny_checkpoint import (
    CENTRE,
    NAMES,
    PRICES,
    PRIORS,
    conversations,
    line,
    manifest,
    pool,
    request,
    trained,
)
from tests.support.tiny_model import write_tiny_base
from training.model.base import load_base
from xrouter_lg import ModelCard, XRouterNode
from xrouter_lg.checkpoints.aliases import promote, rollback
from xrouter_lg.checkpoints.family_head import HEAD_FILE
from xrouter_lg.checkpoints.folder import verify, write_checkpoint
from xrouter_lg.checkpoints.manifest import CheckpointError, Manifest
from xrouter_lg.errors import PolicyConfigError, PolicyError
from xrouter_lg.fitting.family_head import head_stats
from xrouter_lg.policies import following
from xrouter_lg.policies.following import FollowingPolicy
from xrouter_lg.policies.head import HeadPolicy
from xrouter_lg.policies.resolve import resolve_policy
from xrouter_lg.policies.slots import policy as module
from xrouter_lg.policies.slots import torch_engine as engine_module
from xrouter_lg.policies.slots.policy import CheckpointPolicy
from xrouter_lg.policies.slots.prompts import SlotPrompts, blocks_of, card_blocks
from xrouter_lg.policies.slots.torch_engine import Engine
from xrouter_lg.prompts import slots
from xrouter_lg.testing import FakeOpenAIServer, ScriptedChatModel
from xrouter_lg.value.features import Features

pytestmark = pytest.mark.train

QUESTIONS = ("hi", "What is 17 * 23?", "Write a poem about the sea. " * 12)
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def adapter(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint.write(tmp_path_factory.mktemp("out") / "adapter", base_folder)


@pytest.fixture(scope="module")
def merged(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("out") / "merged"
    return tiny_checkpoint.write(folder, base_folder, weights="merged")


@pytest.fixture
def policy(adapter: Path, base_folder: Path) -> Iterator[CheckpointPolicy]:
    policy = CheckpointPolicy(adapter, base=base_folder)
    yield policy
    policy.close()


def whole_prompt(text: str, names: Sequence[str]) -> str:
    prefix = slots.render_prefix([line(name) for name in names])
    return prefix + slots.render_question([HumanMessage(text)])


def loaded(policy: CheckpointPolicy) -> Engine:
    return policy._engine().result()


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


# --- when something goes wrong while it serves


async def test_loading_leaves_the_event_loop_free(
    policy: CheckpointPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()

    class SlowEngine(Engine):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            assert go_on.wait(30)
            super().__init__(*args, **kwargs)

    monkeypatch.setattr(module, "Engine", SlowEngine)
    waiting = [asyncio.create_task(policy.propose(request("hi"), pool().cards)) for _ in range(100)]
    for _ in range(5):
        await asyncio.sleep(0)
    assert not any(task.done() for task in waiting)
    waiting[0].cancel()
    go_on.set()

    found = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(found[0], asyncio.CancelledError)
    assert all(not isinstance(one, BaseException) for one in found[1:])


def hold(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, list[int]]:
    """Make the engine wait before each pass; how many questions each pass had."""
    go_on, sizes = threading.Event(), list[int]()
    real = engine._pass

    def slow(at: int, questions: Any) -> Any:
        assert go_on.wait(30)
        sizes.append(len(questions))
        return real(at, questions)

    monkeypatch.setattr(engine, "_pass", slow)
    return go_on, sizes


async def test_a_request_that_gave_up_costs_no_pass(
    policy: CheckpointPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    await asyncio.to_thread(policy.warm_up)
    go_on, sizes = hold(loaded(policy), monkeypatch)
    tasks = []
    for i in range(6):
        tasks.append(asyncio.create_task(policy.propose(request(f"q{i}"), pool().cards)))
        await asyncio.sleep(0.01)
    for task in tasks[2:5]:
        task.cancel()
    await asyncio.sleep(0.01)
    go_on.set()

    found = await asyncio.gather(*tasks, return_exceptions=True)

    cancelled = [isinstance(one, asyncio.CancelledError) for one in found]
    assert cancelled == [False, False, True, True, True, False]
    assert sizes == [1, 2]


async def test_a_full_queue_costs_a_fallback_not_the_request(
    policy: CheckpointPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    await asyncio.to_thread(policy.warm_up)
    monkeypatch.setattr(engine_module, "MAX_QUEUED", 3)
    go_on, _ = hold(loaded(policy), monkeypatch)
    node = XRouterNode(pool(), policy=policy)
    builder = StateGraph(MessagesState)
    builder.add_node("model", node)
    builder.add_edge(START, "model")
    graph = builder.compile()

    tasks = [
        asyncio.create_task(graph.ainvoke({"messages": [HumanMessage(f"hello {i}")]}))
        for i in range(12)
    ]
    while not any(task.done() for task in tasks):
        await asyncio.sleep(0.01)
    go_on.set()
    states = await asyncio.gather(*tasks)

    decisions = [s["messages"][-1].response_metadata["xrouter"]["decisions"][0] for s in states]
    errors = [decision["policy_error"] for decision in decisions]
    refused = [error for error in errors if error is not None]
    assert 0 < len(refused) < 12
    assert all("3 requests wait for the router model already" in error for error in refused)


async def test_a_pass_that_fails_costs_its_own_requests_only(
    policy: CheckpointPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    await asyncio.to_thread(policy.warm_up)
    engine = loaded(policy)
    real, calls = engine._pass, list[int]()

    def once(at: int, questions: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("out of memory")
        return real(at, questions)

    monkeypatch.setattr(engine, "_pass", once)
    with pytest.raises(RuntimeError, match="out of memory"):
        await policy.propose(request("one"), pool().cards)
    assert (await policy.propose(request("two"), pool().cards)).quality


async def test_what_can_not_be_mended_is_not_tried_again(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = write_tiny_base(tmp_path / "other", layers=4)
    policy = CheckpointPolicy(adapter, base=other)
    for _ in range(2):
        with pytest.raises(CheckpointError, match="weights differ"):
            await policy.propose(request("hi"), pool().cards)
    before = policy._loading
    with pytest.raises(CheckpointError):
        await policy.propose(request("hi"), pool().cards)
    assert policy._loading is before


async def test_a_passing_trouble_is_tried_again(
    policy: CheckpointPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def flaky(*args: Any, **kwargs: Any) -> Engine:
        calls.append(1)
        if len(calls) == 1:
            raise OSError("disk is busy")
        return Engine(*args, **kwargs)

    monkeypatch.setattr(module, "Engine", flaky)
    with pytest.raises(OSError, match="disk is busy"):
        await policy.propose(request("hi"), pool().cards)
    assert (await policy.propose(request("hi"), pool().cards)).quality


async def test_closing_answers_who_waits_and_a_later_request_loads_again(
    policy: CheckpointPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    await asyncio.to_thread(policy.warm_up)
    engine = loaded(policy)
    go_on, _ = hold(engine, monkeypatch)
    tasks = [asyncio.create_task(policy.propose(request("hi"), pool().cards)) for _ in range(3)]
    await asyncio.sleep(0.02)
    closing = asyncio.create_task(asyncio.to_thread(policy.close))
    await asyncio.sleep(0.02)
    go_on.set()
    await closing
    assert all(proposal.quality for proposal in await asyncio.gather(*tasks))
    with pytest.raises(PolicyError, match="closed"):
        engine.submit([1], (0,))
    assert (await policy.propose(request("hi"), pool().cards)).quality


def test_a_policy_that_nobody_holds_frees_its_model(adapter: Path, base_folder: Path) -> None:
    policy = CheckpointPolicy(adapter, base=base_folder)
    policy.warm_up()
    thread = loaded(policy)._thread
    del policy
    gc.collect()
    thread.join(10)
    assert not thread.is_alive()


PROGRAM = """
import asyncio, os, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.support.tiny_checkpoint import pool, request
from xrouter_lg.policies.slots.policy import CheckpointPolicy

policy = CheckpointPolicy({adapter!r}, base={base!r})

def ask():
    return asyncio.run(policy.propose(request("What is 17 * 23?"), pool().cards)).quality
"""


def run(program: str, adapter: Path, base_folder: Path) -> subprocess.CompletedProcess[str]:
    head = PROGRAM.format(root=str(ROOT), adapter=str(adapter), base=str(base_folder))
    return subprocess.run(
        [sys.executable, "-c", head + program],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
        check=False,
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_process_decides_as_its_parent(adapter: Path, base_folder: Path) -> None:
    done = run(
        """
before = ask()
child = os.fork()
if child == 0:
    same = all(abs(before[name] - value) < 1e-5 for name, value in ask().items())
    os._exit(0 if same else 7)
_, status = os.waitpid(child, 0)
assert ask() == before
print("child", os.waitstatus_to_exitcode(status))
""",
        adapter,
        base_folder,
    )
    assert done.stdout.strip() == "child 0", done.stderr


def test_a_process_may_end_while_a_policy_is_loaded_or_loading(
    adapter: Path, base_folder: Path
) -> None:
    for program in ("ask()", "policy._engine()"):
        done = run(program, adapter, base_folder)
        assert done.returncode == 0, done.stderr


# --- what is refused


def test_an_adapter_without_its_base_says_which_base_it_needs(
    adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XROUTER_BASE", raising=False)
    with pytest.raises(CheckpointError, match=r"adapter for 'tiny'; give base=FOLDER"):
        CheckpointPolicy(adapter)


def test_another_base_is_refused_at_load(adapter: Path, tmp_path: Path) -> None:
    other = write_tiny_base(tmp_path / "other", layers=4)
    policy = CheckpointPolicy(adapter, base=other)

    with pytest.raises(CheckpointError, match="weights differ"):
        policy.warm_up()


def test_a_base_that_is_not_there_says_where_it_was_named(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CheckpointError, match=r"holds no config\.json"):
        CheckpointPolicy(adapter, base=tmp_path)
    monkeypatch.setenv("XROUTER_BASE", str(tmp_path / "gone.gguf"))
    with pytest.raises(CheckpointError, match=r"XROUTER_BASE of checkpoint .*does not exist"):
        CheckpointPolicy(adapter)
    monkeypatch.setenv("XROUTER_BASE", "./nowhere")
    with pytest.raises(CheckpointError, match=r"'./nowhere' is neither a folder"):
        CheckpointPolicy(adapter)


def test_weights_that_compute_something_else_are_refused(base_folder: Path, tmp_path: Path) -> None:
    folder = tiny_checkpoint.write(tmp_path / "one", base_folder)
    policy = CheckpointPolicy(folder, base=base_folder)
    probe = json.loads((folder / "probe.json").read_text())
    probe["contrasts"] = [[value + 1.0 for value in row] for row in probe["contrasts"]]
    (folder / "probe.json").write_text(json.dumps(probe))

    with pytest.raises(CheckpointError, match="this process does not compute what this checkpoint"):
        policy.warm_up()


def test_an_architecture_that_changes_its_logits_is_refused(tmp_path: Path) -> None:
    base = tiny_checkpoint.write_base(tmp_path / "base", GraniteForCausalLM, logits_scaling=4.0)
    with pytest.raises(CheckpointError, match="GraniteForCausalLM is not served right"):
        tiny_checkpoint.write(tmp_path / "one", base)


def test_an_adapter_is_a_plain_peft_adapter_in_safetensors(adapter: Path) -> None:
    names = {path.name for path in adapter.iterdir()}

    assert {"adapter_model.safetensors", "adapter_config.json", "manifest.json"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl"))]


def test_a_checkpoint_carries_its_probe_under_a_digest(adapter: Path, base_folder: Path) -> None:
    policy = CheckpointPolicy(adapter, base=base_folder)
    assert "probe.json" in policy.manifest.files
    (adapter.parent / "copy").mkdir()
    for path in adapter.iterdir():
        (adapter.parent / "copy" / path.name).write_bytes(path.read_bytes())
    (adapter.parent / "copy" / "probe.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"probe\.json.*has sha256"):
        CheckpointPolicy(adapter.parent / "copy", base=base_folder)


def test_the_manifest_holds_no_path_of_this_machine(adapter: Path, base_folder: Path) -> None:
    texts = {path.name: path.read_text() for path in adapter.glob("*.json")}
    assert "manifest.json" in texts
    assert [name for name, text in texts.items() if str(base_folder) in text] == []


def test_replacing_a_manifests_price_changes_its_version(base_folder: Path) -> None:
    one = manifest(load_base(base_folder))
    assert one.version != replace(one, c_ref_usd=1.0).version


# --- what may be written for it


def test_a_path_names_a_checkpoint(
    adapter: Path, merged: Path, base_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XROUTER_BASE", str(base_folder))
    for written in (
        str(adapter),
        adapter,
        f"checkpoint:{adapter}",
        f"checkpoint:{adapter}?base={base_folder}&dtype=bfloat16&threads=1",
        str(merged),
    ):
        policy = resolve_policy(written, pool())
        assert isinstance(policy, CheckpointPolicy)
        assert policy.version == CheckpointPolicy(policy.path).version
    monkeypatch.chdir(adapter.parent)
    assert isinstance(resolve_policy("adapter", pool()), CheckpointPolicy)


def test_the_base_may_lie_beside_the_checkpoint(base_folder: Path, tmp_path: Path) -> None:
    folder = tiny_checkpoint.write(tmp_path / "one", base_folder)
    (tmp_path / "base").symlink_to(base_folder)
    CheckpointPolicy(folder).warm_up()


@pytest.mark.parametrize(
    ("written", "what"),
    [
        ("checkpoint:{adapter}?bse=x", r"has no option 'bse'; it takes base, dtype, threads"),
        ("checkpoint:{adapter}?threads=two", "threads is 'two', no number"),
        ("checkpoint:{adapter}?base", "'base' is no option; write NAME=VALUE"),
        ("checkpoint:nowhere", "no checkpoint in 'nowhere'"),
        ("checkpoints/production", "no alias"),
    ],
)
def test_a_form_that_is_none_is_refused(adapter: Path, written: str, what: str) -> None:
    with pytest.raises(PolicyConfigError, match=what):
        resolve_policy(written.format(adapter=adapter), pool())


def test_a_checkpoint_for_other_cards_is_refused_and_unknown_cards_are_told(
    adapter: Path, base_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = [ModelCard(name="other", model=ScriptedChatModel(["x"]))]
    written = f"checkpoint:{adapter}?base={base_folder}"
    with pytest.raises(CheckpointError, match=r"knows large, medium, small, the pool has other"):
        resolve_policy(written, type(pool())(other))
    with caplog.at_level(logging.WARNING):
        resolve_policy(written, type(pool())([*other, *pool().cards]))
    assert "does not know other" in caplog.text


# --- aliases


@pytest.fixture
def aliased(
    base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Path, FollowingPolicy]]:
    """Two checkpoints, the first promoted, and the policy that follows the alias."""
    monkeypatch.setenv("XROUTER_BASE", str(base_folder))
    monkeypatch.setattr(following, "_LOOK_EVERY_S", 0.0)
    root = tmp_path / "checkpoints"
    for name, seed in (("one", 1), ("two", 2)):
        tiny_checkpoint.write(root / name, base_folder, seed=seed)
    promote(root / "one", root=root, force="first")
    policy = resolve_policy(str(root / "production"), pool())
    assert isinstance(policy, FollowingPolicy)
    yield root, policy
    policy.close()


async def moved(policy: FollowingPolicy, version: str) -> None:
    """Ask until a version answers; a look and a load lie in between."""
    while policy.current.version != version:
        await policy.propose(request("hi"), pool().cards)
        await asyncio.sleep(0.01)


async def test_a_running_policy_follows_a_promotion_and_a_rollback(
    aliased: tuple[Path, FollowingPolicy],
) -> None:
    root, policy = aliased
    first = policy.version
    one = await policy.propose(request(QUESTIONS[1]), pool().cards)
    assert promote(root / "two", root=root, force="better").to_version != first

    await moved(policy, CheckpointPolicy(root / "two").version)
    two = await policy.propose(request(QUESTIONS[1]), pool().cards)
    assert one.quality != pytest.approx(two.quality, abs=1e-3)

    rollback(root=root)
    await moved(policy, first)
    again = await policy.propose(request(QUESTIONS[1]), pool().cards)
    assert again.quality == pytest.approx(one.quality, abs=1e-4)


async def test_a_record_names_the_version_that_answered(
    aliased: tuple[Path, FollowingPolicy], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, policy = aliased
    policy.warm_up()
    first = policy.version
    current = policy.current
    assert isinstance(current, CheckpointPolicy)
    go_on, _ = hold(loaded(current), monkeypatch)
    builder = StateGraph(MessagesState)
    builder.add_node("model", XRouterNode(pool(), policy=policy))
    builder.add_edge(START, "model")
    slow = asyncio.create_task(builder.compile().ainvoke({"messages": [HumanMessage("hello")]}))
    await asyncio.sleep(0.05)
    # The alias moves on while the first request still waits for its answer.
    promote(root / "two", root=root, force="better")
    policy._look()
    while policy.current is current:
        await asyncio.sleep(0.01)
    go_on.set()

    state = await slow
    assert state["messages"][-1].response_metadata["xrouter"]["policy_version"] == first


async def test_a_checkpoint_that_can_not_be_loaded_leaves_the_old_one_serving(
    aliased: tuple[Path, FollowingPolicy], caplog: pytest.LogCaptureFixture
) -> None:
    root, policy = aliased
    first = policy.version
    promote(root / "two", root=root, force="better")
    (root / "two" / "adapter_model.safetensors").write_bytes(b"damaged")
    while "stays with version" not in caplog.text:
        assert (await policy.propose(request("hi"), pool().cards)).quality
        await asyncio.sleep(0.01)
    assert policy.version == first
