"""Several checkpoints behind one real llama.cpp server, each request with its own adapter."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("gguf")
pytest.importorskip("xllamacpp")

from integrations.errors import ServerStartError
from integrations.llama_cpp.export_gguf import export_merged
from integrations.llama_cpp.serve_checkpoint import checkpoint_server
from integrations.llama_cpp.server import LlamaCppServer
from tests.integrations.llama_cpp.test_checkpoint_served import EXACT, merge_nothing
from tests.support import tiny_checkpoint
from tests.support.served import difference, proposals, requests_of
from tests.support.tiny_checkpoint import conversations, pool, request
from xrouter_lg.checkpoints.aliases import promote
from xrouter_lg.checkpoints.folder import verify
from xrouter_lg.checkpoints.manifest import CheckpointError
from xrouter_lg.policies import following
from xrouter_lg.policies.slots.policy import CheckpointPolicy
from xrouter_lg.policies.slots.remote import RemotePolicy
from xrouter_lg.routing.router import Router
from xrouter_lg.types import Decision

pytestmark = [pytest.mark.train, pytest.mark.local_models]


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint.write_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def checkpoints(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("checkpoints")
    named = (("one", 1), ("two", 2))
    return [tiny_checkpoint.write(root / name, base_folder, seed=seed) for name, seed in named]


@pytest.fixture(scope="module")
def server(
    base_folder: Path, checkpoints: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LlamaCppServer]:
    folder = tmp_path_factory.mktemp("gguf")
    merge_nothing(base_folder, folder / "base")
    export_merged(folder / "base", folder / "base.gguf")
    with checkpoint_server(
        *checkpoints, base=base_folder, base_gguf=folder / "base.gguf", folder=folder, threads=1
    ) as running:
        yield running


def test_each_checkpoint_decides_as_it_does_alone(
    server: LlamaCppServer, checkpoints: list[Path], base_folder: Path
) -> None:
    asked = requests_of(conversations(20), 0.3)
    cards = tuple(pool().cards)
    there = [
        RemotePolicy(server.base_url, folder, server="llama_cpp", timeout_s=60)
        for folder in checkpoints
    ]
    # In turns: what one has left in the prompt cache must not be taken for the other's.
    mixed = [[proposals(policy, [one], cards)[0] for policy in there] for one in asked]
    for place, folder in enumerate(checkpoints):
        here = CheckpointPolicy(folder, base=base_folder)
        found = difference(proposals(here, asked, cards), [pair[place] for pair in mixed])
        here.close()
        assert found.contrast < EXACT


async def test_a_promoted_checkpoint_takes_over_under_load_without_a_failed_decision(
    server: LlamaCppServer, checkpoints: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "_LOOK_EVERY_S", 0.0)
    one, two = checkpoints
    root = one.parent
    promote(one, root=root, force="first")
    routing = Router(pool(), f"llama_cpp:{server.base_url}?checkpoint={root / 'production'}")
    wanted = [verify(folder).version for folder in checkpoints]
    decided: list[Decision] = []

    async def ask(number: int) -> None:
        while not decided or decided[-1].policy_version != wanted[1]:
            asked = request(f"question {number} {len(decided)}")
            decided.append(await routing.decide(asked, routing.pool))
            if len(decided) == 20:
                promote(two, root=root, force="better")

    await asyncio.wait_for(asyncio.gather(*(ask(number) for number in range(4))), 120)
    assert [decision.policy_error for decision in decided if decision.policy_error] == []
    assert list(dict.fromkeys(decision.policy_version for decision in decided)) == wanted


def test_several_need_a_base_to_share_and_files_that_are_there(
    checkpoints: list[Path], tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match="2 checkpoints for one server"):
        checkpoint_server(*checkpoints)
    (tmp_path / "base.gguf").touch()
    missing = LlamaCppServer(tmp_path / "base.gguf", name="x", adapters=[tmp_path / "gone.gguf"])
    with pytest.raises(ServerStartError, match=r"no adapter for server 'x' at .*gone\.gguf"):
        missing.__enter__()
