"""A promoted checkpoint takes over from another one behind a server that goes on answering."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import HumanMessage

from integrations.errors import AdapterError
from integrations.vllm.__main__ import main as vllm
from integrations.vllm.adapters import Adapters
from tests.policies.test_remote_policy import script_for, write
from tests.support.apps import scripted
from tests.support.slot_server import SlotServer, running
from xrouter_lg import ModelPool, RouteRequest
from xrouter_lg.checkpoints.aliases import promote, rollback
from xrouter_lg.checkpoints.folder import verify
from xrouter_lg.policies import following
from xrouter_lg.policies.slots.remote import model_name
from xrouter_lg.routing.router import Router
from xrouter_lg.types import Decision

KEY = "swapped"
POOL = ModelPool([scripted(name) for name in ("small", "large")])


@pytest.fixture
def checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Two of one base, whose weights answer as seeds 1 and 2 do; the first is promoted."""
    monkeypatch.setattr(following, "_LOOK_EVERY_S", 0.0)
    monkeypatch.setenv("XROUTER_VLLM_KEY", KEY)
    root = tmp_path / "checkpoints"
    made = [
        write(root / name, probe_seed=seed, weights=True) for name, seed in (("one", 1), ("two", 2))
    ]
    promote(made[0], root=root, force="first")
    return made


@pytest.fixture
def server(checkpoints: list[Path]) -> Iterator[SlotServer]:
    """As vLLM: a base without adapters, which it loads while it runs."""
    script = script_for(checkpoints[0], key=KEY)
    script.names = ["base"]
    script.weights = {str(folder.resolve()): seed for seed, folder in enumerate(checkpoints, 1)}
    with running(script):
        yield script


def router(server: SlotServer, kind: str, checkpoint: Path, **options: Any) -> Router:
    key = "&api_key_env=XROUTER_VLLM_KEY" if server.key else ""
    return Router(POOL, f"{kind}:{server.url}?checkpoint={checkpoint}{key}", **options)


async def under_load(routing: Router, count: int = 8) -> AsyncIterator[list[Decision]]:
    """What is decided by ``count`` callers who never wait, yielded now and then; ends when the
    caller has seen enough."""
    decided: list[Decision] = []
    going = True

    async def ask(number: int) -> None:
        while going:
            request = RouteRequest([HumanMessage(f"question {number} {len(decided)}")])
            decided.append(await routing.decide(request, POOL))

    asking = [asyncio.create_task(ask(number)) for number in range(count)]
    try:
        while True:
            await asyncio.sleep(0.01)
            yield decided
    finally:
        going = False
        await asyncio.gather(*asking)


async def swapped(routing: Router, versions: list[str], moves: list[Any]) -> list[Decision]:
    """Decisions while each move is made once the version before it has answered."""
    found: list[Decision] = []
    at = 0
    async for found in under_load(routing):
        if found and found[-1].policy_version == versions[at]:
            if at == len(moves):
                break
            await asyncio.to_thread(moves[at])
            at += 1
    return found


def changes(found: list[Decision]) -> list[str]:
    """Versions in the order in which they first answered."""
    return list(dict.fromkeys(decision.policy_version for decision in found))


async def test_vllm_swaps_under_load_and_back_without_a_failed_decision(
    server: SlotServer, checkpoints: list[Path]
) -> None:
    one, two = checkpoints
    root = one.parent
    adapters = Adapters(server.url, api_key=KEY)
    adapters.swap(one)
    routing = router(server, "vllm", root / "production")

    def forward() -> None:
        adapters.swap(two)
        promote(two, root=root, force="better")

    versions = [verify(one).version, verify(two).version, verify(one).version]
    found = await swapped(routing, versions, [forward, lambda: rollback(root=root)])
    assert [decision.policy_error for decision in found if decision.policy_error] == []
    assert changes(found) == versions[:2]
    assert found[-1].policy_version == versions[0]
    asked = {body["model"] for body in server.asked if "model" in body}
    assert asked == {model_name(verify(folder)) for folder in checkpoints}


async def test_an_alias_that_runs_ahead_of_the_server_leaves_the_old_one_deciding(
    server: SlotServer, checkpoints: list[Path]
) -> None:
    one, two = checkpoints
    root = one.parent
    adapters = Adapters(server.url, api_key=KEY)
    adapters.swap(one)
    routing = router(server, "vllm", root / "production")
    seen = 0
    async for found in under_load(routing):
        if found and not seen:
            promote(two, root=root, force="before the server has it")
            seen = len(found)
        if len(found) > seen + 50:
            break
    assert changes(found) == [verify(one).version]
    assert not any(decision.policy_error for decision in found)


@pytest.mark.parametrize("kind", ["vllm", "llama_cpp"])
async def test_two_checkpoints_of_one_server_share_its_traffic(
    kind: str, checkpoints: list[Path]
) -> None:
    script = script_for(checkpoints[0])
    script.names = ["base"]
    if kind == "vllm":
        names = [model_name(verify(folder)) for folder in checkpoints]
        script.names += names
        script.seeds = {name: seed for seed, name in enumerate(names, 1)}
    else:  # numbered from 0, and that one is nobody's
        files = [f"{model_name(verify(folder))}-lora.gguf" for folder in checkpoints]
        script.adapters = ["other-lora.gguf", *files]
    with running(script):
        one, two = (f"{kind}:{script.url}?checkpoint={folder}" for folder in checkpoints)
        routing = Router(POOL, f"canary:{one},{two}=0.5")
        decisions = [
            await routing.decide(RouteRequest([HumanMessage("hi")], thread_id=str(n)), POOL)
            for n in range(40)
        ]
    by_arm: dict[str, set[float]] = {"main": set(), "candidate": set()}
    for decision in decisions:
        assert decision.policy_error is None
        by_arm[decision.notes["arm"]["arm"]].add(round(decision.scores["small"], 9))
    # Each arm has weights of its own, and only those.
    assert [len(scores) for scores in by_arm.values()] == [1, 1]
    assert by_arm["main"] != by_arm["candidate"]


async def test_an_adapter_that_the_server_lacks_is_told_with_those_it_has(
    checkpoints: list[Path],
) -> None:
    script = script_for(checkpoints[0])
    script.names, script.adapters = ["base"], ["a-lora.gguf", "b-lora.gguf"]
    with running(script):
        decision = await router(script, "llama_cpp", checkpoints[0]).decide(
            RouteRequest([HumanMessage("hi")]), POOL
        )
    assert decision.policy_error is not None
    assert "it lists a, b" in decision.policy_error


def test_the_commands_load_list_and_unload(
    server: SlotServer, checkpoints: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = checkpoints
    names = [model_name(verify(folder)) for folder in checkpoints]
    url = ["--url", server.url]
    assert vllm(["load", str(one.parent / "production"), *url]) == 0
    assert vllm(["load", str(two), "--keep", "0", *url]) == 0
    assert vllm(["list", *url]) == 0
    assert capsys.readouterr().out.split() == [*names, "base", names[1]]
    assert vllm(["unload", names[1], *url]) == 0
    assert server.names == ["base"]
    assert vllm(["unload", names[1], *url]) == 1
    assert "knows no such adapter" in capsys.readouterr().err


def test_a_server_that_refuses_a_key_or_a_folder_says_so(
    server: SlotServer, checkpoints: list[Path]
) -> None:
    with pytest.raises(AdapterError, match="answered 401"):
        Adapters(server.url, api_key="other").names()
    server.weights = {}
    with pytest.raises(AdapterError, match="loads no adapters while it runs"):
        Adapters(server.url, api_key=KEY).load(checkpoints[0])
