"""A checkpoint behind a server, seen from the app: what is asked, what is believed, what fails.

The checkpoint has a manifest and a tokenizer but no weights: the app needs none.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from langchain_core.messages import HumanMessage
from langgraph.graph import START, MessagesState, StateGraph
from safetensors.numpy import save_file

from tests.support.flat_heads import PROMPTS, flat_head
from tests.support.slot_server import SlotServer, logit, running
from xrouter_lg import ModelCard, ModelPool, XRouterNode
from xrouter_lg.checkpoints.family_head import HEAD_FILE, FamilyHead
from xrouter_lg.checkpoints.folder import write_checkpoint
from xrouter_lg.checkpoints.identity import tokenizer_hash
from xrouter_lg.checkpoints.manifest import CheckpointError, Manifest
from xrouter_lg.checkpoints.parts import BaseIdentity, CardStats, HeadStats, LanguageModel
from xrouter_lg.errors import MissingKeyError, PolicyConfigError, PolicyError
from xrouter_lg.policies.resolve import resolve_policy
from xrouter_lg.policies.slots import remote as remote_module
from xrouter_lg.policies.slots.probe import PROBE_FILE, probe_questions
from xrouter_lg.policies.slots.prompts import SlotPrompts, _Tokenizer
from xrouter_lg.policies.slots.remote import RemotePolicy, model_name
from xrouter_lg.policies.slots.remote_servers import Kind
from xrouter_lg.prompts import slots
from xrouter_lg.testing import ScriptedChatModel
from xrouter_lg.types import RouteRequest

tokenizers = pytest.importorskip("tokenizers")

NAMES = ("small", "large")
KINDS: tuple[Kind, ...] = ("vllm", "llama_cpp")


def request(text: str = "What is 17 * 23?") -> RouteRequest:
    return RouteRequest(messages=[HumanMessage(text)], prompt_tokens=50)


def pool() -> ModelPool:
    return ModelPool(
        ModelCard(
            name=name,
            model=ScriptedChatModel(lambda _messages: "an answer"),
            price={"input": price, "output": price},
        )
        for name, price in zip(NAMES, (0.1, 10.0), strict=True)
    )


def write_tokenizer(folder: Path) -> None:
    """Every byte is a token, and so is every slot."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    letters = slots.CARD_SLOTS + slots.ANCHOR_SLOT
    tokens = ["<pad>", "<eos>", *alphabet, *(f"Ġ{letter}" for letter in letters)]
    vocab = {token: index for index, token in enumerate(tokens)}
    model = tokenizers.models.BPE(vocab=vocab, merges=[("Ġ", letter) for letter in letters])
    raw = tokenizers.Tokenizer(model)
    raw.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    # As training may leave them behind: serving must not be impressed.
    raw.enable_truncation(max_length=16)
    raw.enable_padding(length=32, pad_token="<pad>")
    raw.save(str(folder / "tokenizer.json"))


def write(
    folder: Path,
    *,
    probe_seed: int | None = 0,
    cards: tuple[str, ...] = NAMES,
    head: FamilyHead | None = None,
    weights: bool = False,
) -> Path:
    """A checkpoint, without weights unless told otherwise. Its probe is what a
    :class:`SlotServer` of ``probe_seed`` answers; None: no probe."""
    stats = tuple(CardStats(name, f"{name} one", 0.5, 0.1, 100.0, 1e-4) for name in cards)

    def manifest(digest: str) -> Manifest:
        base = BaseIdentity("tiny", "0" * 64, digest, 2, 8)
        return Manifest(
            kind="slots",
            language_model=LanguageModel(base, "adapter"),
            cards=stats,
            c_ref_usd=1e-3,
            best_fixed=cards[-1],
            family_head=None
            if head is None
            else HeadStats(HEAD_FILE, head.families, head.cards, 0.5, 0.0, 0.1),
        )

    def write_files(target: Path) -> None:
        write_tokenizer(target)
        if head is not None:
            save_file(head.arrays, target / HEAD_FILE)
        if weights:
            save_file({"none": np.zeros(1)}, target / "adapter_model.safetensors")
        if probe_seed is not None:
            prompts = SlotPrompts(manifest(tokenizer_hash(_Tokenizer(target))), target)
            rows = []
            for question in probe_questions():
                row: list[float] = []
                for block in prompts.blocks:
                    ids = [*block.prefix_ids, *prompts.question_ids(question)]
                    values = [logit(ids, token, probe_seed) for token in block.slot_ids]
                    row += [value - values[-1] for value in values[:-1]]
                rows.append(row)
            data = {"questions": probe_questions(), "contrasts": rows}
            (target / PROBE_FILE).write_text(json.dumps(data))

    draft = folder.with_name(f"{folder.name}-tokenizer")
    draft.mkdir(parents=True)
    write_tokenizer(draft)
    digest = tokenizer_hash(_Tokenizer(draft))
    write_checkpoint(folder, manifest(digest), write_files)
    return folder


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write(tmp_path / "checkpoint")


def script_for(checkpoint: Path, **options: Any) -> SlotServer:
    policy = RemotePolicy("http://127.0.0.1:9/v1", checkpoint)
    tokens = {
        slots.slot_token(letter): token
        for block in policy.prompts.blocks
        for letter, token in zip(block.letters, block.slot_ids, strict=True)
    }
    return SlotServer([model_name(policy.manifest)], tokens=tokens, **options)


@pytest.fixture
def server(checkpoint: Path) -> Iterator[SlotServer]:
    with running(script_for(checkpoint)) as script:
        yield script


@pytest.mark.parametrize("kind", KINDS)
async def test_success_odds_are_those_of_the_served_log_probabilities(
    server: SlotServer, checkpoint: Path, kind: Kind
) -> None:
    policy = RemotePolicy(server.url, checkpoint, server=kind)
    for text in ("hi", "What is 17 * 23?", "naïve 東京 🙂 " * 50):
        proposal = await policy.propose(request(text), pool().cards)
        assert proposal.token_ids is not None and proposal.quality is not None
        ids = proposal.token_ids["prompt_token_ids"]
        assert server.asked[-1]["prompt"] == ids
        block = policy.prompts.blocks[0]
        values = [logit(ids, token) for token in block.slot_ids]
        for m, name in enumerate(NAMES):
            z = 0.5 + values[m] - values[-1] - 0.1
            assert proposal.quality[name] == pytest.approx(1 / (1 + math.exp(-z)), abs=1e-6)
    await policy.aclose()


async def test_a_prompt_is_whole_whatever_the_tokenizer_file_says(
    server: SlotServer, checkpoint: Path
) -> None:
    policy = RemotePolicy(server.url, checkpoint)
    proposal = await policy.propose(request("x" * 300), pool().cards)
    assert proposal.token_ids is not None
    assert len(proposal.token_ids["prompt_token_ids"]) > 300
    assert policy.prompts.question_ids("hi") == policy.prompts.question_ids("hi")[:2]
    await policy.aclose()


async def test_more_cards_than_letters_are_asked_for_in_several_prompts(tmp_path: Path) -> None:
    names = tuple(f"card_{i}" for i in range(19))
    folder = write(tmp_path / "wide", cards=names)
    cards = [ModelCard(name=name, model=ScriptedChatModel(["x"])) for name in names]
    with running(script_for(folder)) as script:
        policy = RemotePolicy(script.url, folder)
        await policy.check()
        script.asked.clear()
        proposal = await policy.propose(request(), cards)
        assert [len(asked["structured_outputs"]["choice"]) for asked in script.asked] in (
            [17, 4],
            [4, 17],
        )
        assert proposal.quality is not None and len(set(proposal.quality.values())) == 19

        script.asked.clear()
        few = await policy.propose(request(), cards[17:])
        (only,) = script.asked
        assert len(only["structured_outputs"]["choice"]) == 4
        assert few.token_ids is not None and few.token_ids["prompt_token_ids"] == only["prompt"]
        assert few.quality == {name: proposal.quality[name] for name in names[17:]}
        await policy.aclose()


def test_one_policy_serves_several_event_loops_and_a_sync_estimate(
    server: SlotServer, checkpoint: Path
) -> None:
    policy = RemotePolicy(server.url, checkpoint)
    found = [asyncio.run(policy.propose(request(), pool().cards)).quality for _ in range(3)]
    assert found[0] == found[1] == found[2]
    texts = [f"question {i}" for i in range(20)]
    estimates = policy.estimate([request(text) for text in texts], pool().cards)
    for text, estimate in zip(texts, estimates, strict=True):
        proposal = asyncio.run(policy.propose(request(text), pool().cards))
        assert estimate.expected.quality == proposal.quality


# --- identity


async def test_a_server_is_checked_once_however_many_ask_first(
    server: SlotServer, checkpoint: Path
) -> None:
    policy = RemotePolicy(server.url, checkpoint)
    await asyncio.gather(*(policy.propose(request(f"q{i}"), pool().cards) for i in range(40)))
    assert server.listed == 1
    assert len(server.asked) == 40 + len(probe_questions())
    await policy.aclose()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_server_with_other_weights_is_refused_whatever_it_calls_them(
    server: SlotServer, checkpoint: Path, kind: Kind
) -> None:
    server.seed = 5
    policy = RemotePolicy(server.url, checkpoint, server=kind)
    with pytest.raises(CheckpointError, match=r"does not compute what this checkpoint.*differ by"):
        await policy.propose(request(), pool().cards)
    await policy.aclose()


async def test_a_name_that_the_server_does_not_list_is_an_error_that_lists_them(
    server: SlotServer, checkpoint: Path
) -> None:
    server.names[:] = ["base", "xrouter-older"]
    policy = RemotePolicy(server.url, checkpoint)
    with pytest.raises(CheckpointError, match=r"does not serve 'xrouter-.*base, xrouter-older"):
        await policy.propose(request(), pool().cards)
    await policy.aclose()


async def test_the_only_model_of_a_server_is_taken_if_it_proves_itself(
    server: SlotServer, checkpoint: Path
) -> None:
    server.names[:] = ["somebody's"]
    policy = RemotePolicy(server.url, checkpoint)
    assert await policy.check() == "somebody's"
    await policy.aclose()


async def test_without_a_probe_a_name_must_tell_or_be_given(tmp_path: Path) -> None:
    folder = write(tmp_path / "plain", probe_seed=None)
    with running(script_for(folder)) as script:
        policy = RemotePolicy(script.url, folder)
        assert await policy.check() == model_name(policy.manifest)
        script.names[:] = ["somebody's"]
        with pytest.raises(CheckpointError, match="has no probe to tell"):
            await policy.check()
        await policy.aclose()
        named = RemotePolicy(script.url, folder, model="somebody's")
        assert await named.check() == "somebody's"
        await named.aclose()


async def test_a_server_that_came_back_with_other_weights_is_noticed(checkpoint: Path) -> None:
    script = script_for(checkpoint)
    with running(script):
        port = httpx.URL(script.url).port
        policy = RemotePolicy(script.url, checkpoint)
        assert (await policy.propose(request(), pool().cards)).quality
    with pytest.raises(PolicyError, match=r"ConnectError|ReadError|RemoteProtocolError"):
        await policy.propose(request(), pool().cards)
    assert port is not None
    with (
        running(dataclasses.replace(script, seed=9), port),
        pytest.raises(CheckpointError, match="does not compute"),
    ):
        await policy.propose(request(), pool().cards)
    await policy.aclose()


async def test_a_failed_check_is_repeated_after_a_while_only(
    server: SlotServer, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.seed = 5
    policy = RemotePolicy(server.url, checkpoint)
    for _ in range(3):
        with pytest.raises(CheckpointError):
            await policy.propose(request(), pool().cards)
    assert server.listed == 1
    server.seed = 0
    monkeypatch.setattr(remote_module, "_RETRY_CHECK_S", -1.0)
    assert (await policy.propose(request(), pool().cards)).quality
    await policy.aclose()


# --- failures


@pytest.mark.parametrize("kind", KINDS)
async def test_an_answer_without_the_anchor_is_an_error_and_an_improbable_slot_a_bound(
    server: SlotServer, checkpoint: Path, kind: Kind
) -> None:
    policy = RemotePolicy(server.url, checkpoint, server=kind)
    await policy.check()
    block = policy.prompts.blocks[0]
    server.lack = {block.slot_ids[0]}
    proposal = await policy.propose(request(), pool().cards)
    assert proposal.quality is not None
    assert proposal.quality["small"] <= proposal.quality["large"]
    server.lack = {block.slot_ids[-1]}
    with pytest.raises(PolicyError, match="no usable log probability of the anchor"):
        await policy.propose(request(), pool().cards)
    await policy.aclose()


@pytest.mark.parametrize(
    ("status", "what"), [(500, "answered 500"), (404, "answered 404"), (429, "answered 429")]
)
async def test_an_error_of_the_server_costs_a_fallback_not_the_request(
    server: SlotServer, checkpoint: Path, status: int, what: str
) -> None:
    policy = RemotePolicy(server.url, checkpoint)
    await policy.check()
    server.status = status
    builder = StateGraph(MessagesState)
    builder.add_node("model", XRouterNode(pool(), policy=policy))
    builder.add_edge(START, "model")
    state = await builder.compile().ainvoke({"messages": [HumanMessage("hello")]})
    record = state["messages"][-1].response_metadata["xrouter"]
    assert what in record["decisions"][0]["policy_error"]
    assert record["policy"] == "checkpoint"
    assert record["policy_version"] == policy.version
    await policy.aclose()


async def test_a_request_that_gives_up_leaves_the_check_to_the_others(
    server: SlotServer, checkpoint: Path
) -> None:
    server.gate.clear()
    policy = RemotePolicy(server.url, checkpoint)
    first = asyncio.create_task(policy.propose(request("a"), pool().cards))
    second = asyncio.create_task(policy.propose(request("b"), pool().cards))
    while not server.asked:
        await asyncio.sleep(0.01)
    first.cancel()
    await asyncio.sleep(0.01)
    server.gate.set()
    assert (await second).quality
    assert first.cancelled()
    assert server.listed == 1
    await policy.aclose()


async def test_a_slow_server_is_given_up_before_the_routers_own_deadline(
    server: SlotServer, checkpoint: Path
) -> None:
    policy = RemotePolicy(server.url, checkpoint, timeout_s=0.2)
    await policy.check()
    server.gate.clear()
    with pytest.raises(PolicyError, match="ReadTimeout"):
        await policy.propose(request(), pool().cards)
    server.gate.set()
    await policy.aclose()


# --- keys and addresses


async def test_a_key_travels_in_the_header_and_nowhere_else(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROUTER_KEY", "sk-secret")
    with running(script_for(checkpoint, key="sk-secret")) as script:
        policy = RemotePolicy(script.url, checkpoint, api_key_env="ROUTER_KEY")
        proposal = await policy.propose(request(), pool().cards)
        await policy.aclose()
        assert "sk-secret" not in f"{policy!r}{proposal}{script.asked}"
        stranger = RemotePolicy(script.url, checkpoint)
        with pytest.raises(PolicyError, match="answered 401"):
            await stranger.propose(request(), pool().cards)
        await stranger.aclose()


def test_a_key_that_is_not_set_is_told_by_its_variable(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ROUTER_KEY", raising=False)
    with pytest.raises(MissingKeyError, match="ROUTER_KEY is not set"):
        RemotePolicy("http://127.0.0.1:9/v1", checkpoint, api_key_env="ROUTER_KEY")


@pytest.mark.parametrize(
    ("written", "what"),
    [
        ("vllm:http://h:1/v1", "needs the checkpoint's folder"),
        ("vllm:h:1/v1?checkpoint={c}", r"address is 'h:1/v1'; write http://HOST:PORT/v1"),
        ("vllm:http://u:sk-x@h:1/v1?checkpoint={c}", "holds a user or password"),
        ("llama_cpp:http://h:1?checkpoint={c}&api_key=sk-x", "has no option 'api_key'; it takes"),
        ("vllm:http://h:1/v1?checkpoint=nowhere", "no checkpoint in 'nowhere'"),
    ],
)
def test_a_form_that_is_none_is_refused_without_showing_a_key(
    checkpoint: Path, written: str, what: str
) -> None:
    with pytest.raises(PolicyConfigError, match=what) as caught:
        resolve_policy(written.format(c=checkpoint), pool())
    assert "sk-x" not in str(caught.value)


async def test_a_form_makes_its_policy(server: SlotServer, checkpoint: Path) -> None:
    for kind in KINDS:
        root = server.url.removesuffix("/v1")
        for url in (server.url, root, f"{root}/"):
            policy = resolve_policy(f"{kind}:{url}?checkpoint={checkpoint}", pool())
            assert isinstance(policy, RemotePolicy)
            assert (await policy.propose(request(), pool().cards)).quality
            await policy.aclose()


async def test_where_the_server_is_down_the_value_model_decides(tmp_path: Path) -> None:
    sure = flat_head(NAMES, [0.9, 0.6], 1e-6 * np.eye(2))
    policy = RemotePolicy("http://127.0.0.1:9/v1", write(tmp_path / "with", head=sure))
    found = await policy.propose(request(PROMPTS[0]), pool().cards)
    assert max(found.probabilities, key=lambda name: found.probabilities[name]) == "small"
    assert found.quality == pytest.approx({"small": 0.9, "large": 0.6}, abs=1e-3)
    assert found.reason.startswith("the language model failed; expected score 0.90")
    assert found.token_ids is None

    alone = RemotePolicy("http://127.0.0.1:9/v1", write(tmp_path / "without"))
    with pytest.raises(PolicyError):
        await alone.propose(request(), pool().cards)


# --- the checkpoint's own files


@pytest.mark.parametrize("name", ["tokenizer.json", PROBE_FILE])
def test_a_damaged_file_is_named(checkpoint: Path, name: str) -> None:
    (checkpoint / name).write_bytes((checkpoint / name).read_bytes() + b" ")
    with pytest.raises(CheckpointError, match=rf"{name!r} has sha256"):
        RemotePolicy("http://127.0.0.1:9/v1", checkpoint)
    (checkpoint / name).unlink()
    with pytest.raises(CheckpointError, match=rf"lacks its file {name!r}"):
        RemotePolicy("http://127.0.0.1:9/v1", checkpoint)


def test_another_tokenizer_is_refused_even_where_the_digests_agree(checkpoint: Path) -> None:
    path = checkpoint / "tokenizer.json"
    data = json.loads(path.read_text())
    data["model"]["merges"] = data["model"]["merges"][1:]
    path.write_text(json.dumps(data))
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    manifest["files"]["tokenizer.json"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=r"the tokenizer of checkpoint .* has hash"):
        RemotePolicy("http://127.0.0.1:9/v1", checkpoint)
