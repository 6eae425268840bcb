"""A real vLLM server: life and death, adapters that come and go, and one behaviour in three ways.

Needs ``XROUTER_VLLM_PYTHON``, the interpreter of an environment with vLLM. With
``XROUTER_TEST_CHECKPOINT`` and ``XROUTER_BASE`` naming a trained checkpoint and its base, the 200
requests are repeated with them.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, LlamaForCausalLM

from integrations.errors import AdapterError, ServerStartError, VllmMissingError
from integrations.vllm.adapters import Adapters
from integrations.vllm.server import PYTHON_VARIABLE, VllmServer, find_python
from tests.support import tiny_checkpoint
from tests.support.served import VllmSeen, difference, proposals, requests_of, same_prompts, watched
from tests.support.tiny_checkpoint import conversations, pool, request
from xrouter_lg import ModelCard
from xrouter_lg.checkpoints.folder import verify
from xrouter_lg.checkpoints.manifest import CheckpointError
from xrouter_lg.policies.slots.policy import CheckpointPolicy
from xrouter_lg.policies.slots.prompts import SlotPolicy
from xrouter_lg.policies.slots.remote import RemotePolicy, model_name
from xrouter_lg.prompts import slots
from xrouter_lg.testing import ScriptedChatModel

pytestmark = [pytest.mark.train, pytest.mark.timeout(1200)]

needs_vllm = pytest.mark.skipif(
    PYTHON_VARIABLE not in os.environ, reason=f"{PYTHON_VARIABLE} names no interpreter with vLLM"
)

EXACT = 1e-3
"""Nats: how far log-odds may lie apart where everything is computed in float32. Measured:
1e-4 for vLLM, 5e-4 for llama.cpp."""

KEY = "KEY_OF_THE_TEST"


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # vLLM's attention on a CPU wants heads of 32 numbers or more.
    return tiny_checkpoint.write_base(
        tmp_path_factory.mktemp("base"),
        LlamaForCausalLM,
        head_dim=32,
        hidden_size=64,
        num_attention_heads=2,
        num_key_value_heads=2,
        # Logits of the size that a real model has: other weights must show.
        initializer_range=0.2,
    )


@pytest.fixture(scope="module")
def checkpoints(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("out")
    return [
        tiny_checkpoint.write(root / str(seed), base_folder, seed=seed, std=0.5)
        for seed in (1, 2, 3)
    ]


@pytest.fixture(scope="module")
def server(base_folder: Path) -> Iterator[VllmServer]:
    with VllmServer(base_folder, dtype="float32", max_adapters=2, start_timeout_s=900) as running:
        os.environ[KEY] = running.api_key
        yield running
    os.environ.pop(KEY, None)


def remote(server: VllmServer, checkpoint: Path, **options: Any) -> RemotePolicy:
    return RemotePolicy(
        server.base_url, checkpoint, server="vllm", api_key_env=KEY, timeout_s=900, **options
    )


def quality(policy: SlotPolicy, text: str = "What is 17 * 23?") -> dict[str, float]:
    found = asyncio.run(policy.propose(request(text), pool().cards)).quality
    assert found is not None
    return dict(found)


@needs_vllm
def test_200_requests_have_the_same_bytes_ids_and_probabilities_in_three_ways(
    server: VllmServer,
    checkpoints: list[Path],
    base_folder: Path,
    tmp_path: Path,
    record_property: Any,
) -> None:
    cards = list(pool().cards)
    found = compare_three_ways(server, checkpoints[0], base_folder, tmp_path, cards)
    for name, each in found.items():
        record_property(name, str(each))


def compare_three_ways(
    server: VllmServer, checkpoint: Path, base: Path, folder: Path, cards: list[ModelCard]
) -> dict[str, Any]:
    asked = requests_of(conversations(200), 0.3)
    Adapters(server.base_url, api_key=server.api_key).load(checkpoint, base=base)
    here = CheckpointPolicy(checkpoint, base=base)
    behind_vllm = remote(server, checkpoint)
    seen = watched(behind_vllm, VllmSeen)
    local, by_vllm = proposals(here, asked, cards), proposals(behind_vllm, asked, cards)
    here.close()

    assert same_prompts(local, by_vllm)
    sent = {tuple(p.token_ids["prompt_token_ids"]) for p in by_vllm if p.token_ids}
    assert sent <= set(seen.ids)
    tokenizer = AutoTokenizer.from_pretrained(str(checkpoint))
    lines = [card.line for card in verify(checkpoint).cards]
    for one, proposal in zip(asked, by_vllm, strict=True):
        assert proposal.token_ids is not None
        text = tokenizer.decode(proposal.token_ids["prompt_token_ids"])
        assert text == slots.render_prefix(lines) + slots.render_question(one.messages)
    found = {"vllm": difference(local, by_vllm)}
    if importlib.util.find_spec("xllamacpp") and importlib.util.find_spec("gguf"):
        from integrations.llama_cpp.serve_checkpoint import checkpoint_server

        with checkpoint_server(checkpoint, base=base, folder=folder) as llama:
            there = RemotePolicy(llama.base_url, checkpoint, server="llama_cpp", timeout_s=900)
            by_llama = proposals(there, asked, cards)
        assert same_prompts(local, by_llama)
        found["llama_cpp"] = difference(local, by_llama)
    for each in found.values():
        assert each.contrast < EXACT
        assert each.quality < EXACT
        assert each.near_ties < EXACT
    return found


@needs_vllm
@pytest.mark.timeout(3600)  # 600 prompts of a real model, on a machine that may be busy
@pytest.mark.skipif(
    "XROUTER_TEST_CHECKPOINT" not in os.environ, reason="XROUTER_TEST_CHECKPOINT names none"
)
def test_a_trained_checkpoint_decides_alike_in_three_ways(
    tmp_path: Path, record_property: Any
) -> None:
    folder, base = Path(os.environ["XROUTER_TEST_CHECKPOINT"]), Path(os.environ["XROUTER_BASE"])
    cards = [ModelCard(name=c.name, model=ScriptedChatModel(["x"])) for c in verify(folder).cards]
    # The module's server has set the key that all of them take.
    with VllmServer(
        base, dtype="float32", api_key=os.environ.get(KEY), start_timeout_s=900
    ) as server:
        os.environ[KEY] = server.api_key
        found = compare_three_ways(server, folder, base, tmp_path, cards)
    for name, each in found.items():
        record_property(name, str(each))


@needs_vllm
def test_a_checkpoint_is_swapped_while_the_server_answers(
    server: VllmServer, checkpoints: list[Path], base_folder: Path
) -> None:
    adapters = Adapters(server.base_url, api_key=server.api_key)
    one, two, three = checkpoints
    expected = []
    for folder in checkpoints:
        here = CheckpointPolicy(folder, base=base_folder)
        expected.append(quality(here))
        here.close()
    first = remote(server, one)
    adapters.swap(one, base=base_folder)
    assert quality(first) == pytest.approx(expected[0], abs=EXACT)

    async def under_fire() -> list[Any]:
        going = True

        async def ask() -> list[Any]:
            found = []
            while going:
                found.append(await first.propose(request("What is 17 * 23?"), pool().cards))
            return found

        asking = [asyncio.create_task(ask()) for _ in range(3)]
        await asyncio.to_thread(adapters.swap, two, base=base_folder)
        await asyncio.sleep(0.1)
        going = False
        return [proposal for found in await asyncio.gather(*asking) for proposal in found]

    for proposal in asyncio.run(under_fire()):
        assert proposal.quality == pytest.approx(expected[0], abs=EXACT)
    assert quality(remote(server, two)) == pytest.approx(expected[1], abs=EXACT)
    # The one before is kept for a rollback, the one before that is not.
    adapters.swap(three, base=base_folder)
    names = adapters.names()
    assert model_name(verify(two)) in names and model_name(verify(three)) in names
    assert model_name(verify(one)) not in names
    with pytest.raises(CheckpointError, match="does not serve"):
        quality(remote(server, one))
    adapters.unload(model_name(verify(three)))
    with pytest.raises(AdapterError, match="knows no such adapter"):
        adapters.unload("nobody")


@needs_vllm
def test_an_adapter_under_another_ones_name_is_found_out(
    server: VllmServer, checkpoints: list[Path], base_folder: Path
) -> None:
    adapters = Adapters(server.base_url, api_key=server.api_key)
    adapters.load(checkpoints[1], base=base_folder)
    for wrong in (model_name(verify(checkpoints[1])), "base"):
        with pytest.raises(CheckpointError, match="does not compute what this checkpoint"):
            quality(remote(server, checkpoints[0], model=wrong))


@needs_vllm
def test_the_prefix_cache_changes_no_number(
    server: VllmServer, checkpoints: list[Path], base_folder: Path
) -> None:
    Adapters(server.base_url, api_key=server.api_key).load(checkpoints[0], base=base_folder)
    policy = remote(server, checkpoints[0])
    plain = remote(server, checkpoints[0], cache_prefix=False)
    for text in ("hi", "What is 17 * 23?"):
        assert quality(policy, text) == pytest.approx(quality(plain, text), abs=EXACT)


@needs_vllm
def test_who_has_no_key_is_turned_away(server: VllmServer) -> None:
    with pytest.raises(AdapterError, match="answered 401"):
        Adapters(server.base_url).names()


@needs_vllm
def test_nothing_is_left_when_a_server_stops(base_folder: Path) -> None:
    server = VllmServer(base_folder, dtype="float32", max_lora_rank=0, start_timeout_s=900)
    with server:
        session = server.pid
        assert session is not None
        assert server.is_healthy()
        assert len(members(session)) > 1
    for _ in range(100):
        if not members(session):
            break
        time.sleep(0.1)
    assert members(session) == []
    with pytest.raises(RuntimeError, match="is not running"):
        _ = server.base_url


def members(session: int) -> list[int]:
    """Processes of a session that are still there."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == session and fields[0] != "Z":
                found.append(int(entry.name))
    return found


def test_a_checkpoint_for_another_base_is_not_sent(checkpoints: list[Path], tmp_path: Path) -> None:
    torch.manual_seed(1)
    other = tiny_checkpoint.write_base(tmp_path / "other", LlamaForCausalLM, num_hidden_layers=4)
    with pytest.raises(CheckpointError, match="weights differ"):
        Adapters("http://127.0.0.1:9/v1").load(checkpoints[0], base=other)


def test_a_missing_vllm_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PYTHON_VARIABLE, "/nowhere/python")
    with pytest.raises(VllmMissingError, match="/nowhere/python"):
        find_python()
    monkeypatch.delenv(PYTHON_VARIABLE)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(VllmMissingError, match=r"pip install .*xrouter_lg\[vllm\]"):
        find_python()


def test_a_server_that_can_not_start_shows_the_end_of_its_log(
    tmp_path: Path, base_folder: Path
) -> None:
    with pytest.raises(ServerStartError, match=r"holds no config\.json"):
        VllmServer(tmp_path).start()
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho 'no such option' >&2\nexit 3\n")
    program.chmod(0o755)
    server = VllmServer(base_folder, python=program, start_timeout_s=30)
    with pytest.raises(ServerStartError, match=r"exited with status 3(?s:.*)no such option"):
        server.start()
    server.stop()


def test_a_key_is_neither_an_argument_nor_shown(base_folder: Path) -> None:
    server = VllmServer(base_folder, api_key="sk-secret")
    assert "sk-secret" not in " ".join(server.arguments(1)) + repr(server)
    assert server.environment()["VLLM_API_KEY"] == "sk-secret"


def test_a_merged_checkpoint_is_no_adapter(base_folder: Path, tmp_path: Path) -> None:
    folder = tiny_checkpoint.write(tmp_path / "merged", base_folder, weights="merged")
    with pytest.raises(AdapterError, match="is merged: it is a model of its own"):
        Adapters("http://127.0.0.1:9/v1").load(folder)
