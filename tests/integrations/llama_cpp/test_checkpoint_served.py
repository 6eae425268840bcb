"""A checkpoint behind a real llama.cpp server: the same prompts, the same probabilities.

With ``XROUTER_TEST_CHECKPOINT`` and ``XROUTER_BASE`` naming a trained checkpoint and its base, the
comparison is repeated with them.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gguf")
pytest.importorskip("xllamacpp")

import torch
from transformers import (
    AutoTokenizer,
    GPT2LMHeadModel,
    LlamaForCausalLM,
    Qwen2ForCausalLM,
    Qwen3ForCausalLM,
)

from integrations.errors import ExportError
from integrations.llama_cpp import export_gguf
from integrations.llama_cpp.export_gguf import GgufShape, export_adapter, export_merged
from integrations.llama_cpp.serve_checkpoint import checkpoint_server, gguf_of
from integrations.llama_cpp.server import LlamaCppServer
from tests.support import tiny_checkpoint
from tests.support.served import (
    LlamaSeen,
    difference,
    proposals,
    requests_of,
    same_prompts,
    watched,
)
from tests.support.tiny_checkpoint import conversations, pool, request
from xrouter_lg import ModelCard
from xrouter_lg.checkpoints.folder import read_manifest, verify
from xrouter_lg.checkpoints.manifest import CheckpointError
from xrouter_lg.policies.slots.policy import CheckpointPolicy
from xrouter_lg.policies.slots.remote import RemotePolicy, model_name
from xrouter_lg.prompts import slots
from xrouter_lg.testing import ScriptedChatModel

pytestmark = [pytest.mark.train, pytest.mark.local_models]

EXACT = 1e-3
"""Nats: how far log-odds may lie apart where everything is computed in float32. Measured:
5e-4."""


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint.write_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def checkpoint(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint.write(tmp_path_factory.mktemp("out") / "one", base_folder)


@pytest.fixture(scope="module")
def cards() -> tuple[ModelCard, ...]:
    return tuple(pool().cards)


def test_200_requests_have_the_same_bytes_ids_and_probabilities_as_in_process(
    checkpoint: Path, base_folder: Path, cards: tuple[ModelCard, ...], tmp_path: Path
) -> None:
    asked = requests_of(conversations(200), 0.3)
    here = CheckpointPolicy(checkpoint, base=base_folder)
    with checkpoint_server(checkpoint, base=base_folder, folder=tmp_path, threads=1) as server:
        there = RemotePolicy(server.base_url, checkpoint, server="llama_cpp", timeout_s=60)
        seen = watched(there, LlamaSeen)
        local, remote = (proposals(policy, asked, cards) for policy in (here, there))
    here.close()

    assert same_prompts(local, remote)
    tokenizer = AutoTokenizer.from_pretrained(str(checkpoint))
    lines = [card.line for card in verify(checkpoint).cards]
    # llama.cpp drops blanks before punctuation when it shows a prompt.
    shown = {"".join(text.split()) for text in seen.texts}
    for one, proposal in zip(asked, remote, strict=True):
        assert proposal.token_ids is not None
        text = slots.render_prefix(lines) + slots.render_question(one.messages)
        assert tokenizer.decode(proposal.token_ids["prompt_token_ids"]) == text
        assert "".join(text.split()) in shown
    found = difference(local, remote)
    assert found.contrast < EXACT
    assert found.quality < EXACT
    assert found.near_ties < EXACT


def test_an_adapter_beside_its_base_gives_what_the_merged_model_gives(
    checkpoint: Path, base_folder: Path, cards: tuple[ModelCard, ...], tmp_path: Path
) -> None:
    plain = tmp_path / "base.gguf"
    merged_base = tmp_path / "merged_base"
    merge_nothing(base_folder, merged_base)
    export_merged(merged_base, plain)
    asked = requests_of(conversations(20), 0.3)
    here = CheckpointPolicy(checkpoint, base=base_folder)
    server = checkpoint_server(
        checkpoint, base=base_folder, base_gguf=plain, folder=tmp_path, threads=1
    )
    with server:
        there = RemotePolicy(server.base_url, checkpoint, server="llama_cpp", timeout_s=60)
        found = difference(proposals(here, asked, cards), proposals(there, asked, cards))
    here.close()
    assert found.contrast < EXACT


def test_a_gguf_file_of_the_base_becomes_a_folder_with_the_same_weights(
    base_folder: Path, tmp_path: Path
) -> None:
    from training.model.base import load_base
    from xrouter_lg.checkpoints.bases import materialise

    merge_nothing(base_folder, tmp_path / "merged")
    export_merged(tmp_path / "merged", tmp_path / "base.gguf")
    made = load_base(materialise(tmp_path / "base.gguf", tmp_path / "made"))
    wanted = load_base(base_folder).model.state_dict()
    found = made.model.state_dict()
    assert wanted.keys() == found.keys()
    assert all(torch.allclose(wanted[name], found[name], atol=1e-6) for name in wanted)
    assert made.identity.model_id == "base"


def merge_nothing(base_folder: Path, folder: Path) -> None:
    """The base itself as a merged checkpoint: an adapter whose second matrix is zero."""
    from training.model.base import load_base
    from training.run.export import export

    base = load_base(base_folder)
    slot = tiny_checkpoint.trained(base)
    with torch.no_grad():
        for name, parameter in slot.model.named_parameters():
            if "lora_B" in name:
                parameter.zero_()
    export(folder, slot, base, tiny_checkpoint.manifest(base), weights="merged")


def test_the_base_without_its_adapter_is_refused(
    cards: tuple[ModelCard, ...], tmp_path: Path
) -> None:
    # Logits of the size that a real model has: other weights must show.
    base_folder = tiny_checkpoint.write_base(
        tmp_path / "base", LlamaForCausalLM, initializer_range=0.2
    )
    checkpoint = tiny_checkpoint.write(tmp_path / "one", base_folder, std=0.5)
    merge_nothing(base_folder, tmp_path / "merged_base")
    plain = export_merged(tmp_path / "merged_base", tmp_path / "base.gguf")
    name = model_name(read_manifest(checkpoint))
    with LlamaCppServer(plain, name=name, n_ctx=2048, threads=1, exact=True) as server:
        there = RemotePolicy(server.base_url, checkpoint, server="llama_cpp", timeout_s=60)
        with pytest.raises(CheckpointError, match="does not compute what this checkpoint"):
            asyncio.run(there.propose(request("hi"), cards))


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        (Qwen2ForCausalLM, {}),
        (Qwen3ForCausalLM, {"head_dim": 16, "tie_word_embeddings": False}),
    ],
    ids=["qwen2", "qwen3"],
)
def test_other_architectures_are_written_right(
    kind: type[Any],
    config: dict[str, Any],
    cards: tuple[ModelCard, ...],
    tmp_path: Path,
) -> None:
    base = tiny_checkpoint.write_base(tmp_path / "base", kind, **config)
    folder = tiny_checkpoint.write(tmp_path / "one", base)
    asked = requests_of(conversations(12), 0.3)
    here = CheckpointPolicy(folder, base=base)
    with checkpoint_server(folder, base=base, folder=tmp_path, threads=1) as server:
        there = RemotePolicy(server.base_url, folder, server="llama_cpp", timeout_s=60)
        found = difference(proposals(here, asked, cards), proposals(there, asked, cards))
    here.close()
    assert found.contrast < EXACT


@pytest.mark.parametrize("type", ["f16", "q8_0"])
def test_smaller_weights_stay_near(
    checkpoint: Path,
    base_folder: Path,
    cards: tuple[ModelCard, ...],
    tmp_path: Path,
    type: export_gguf.WeightType,
) -> None:
    asked = requests_of(conversations(12), 0.3)
    here = CheckpointPolicy(checkpoint, base=base_folder)
    exact = gguf_of(checkpoint, base=base_folder, folder=tmp_path)
    server = checkpoint_server(checkpoint, base=base_folder, type=type, folder=tmp_path, threads=1)
    assert server.weights_path.stat().st_size < exact.stat().st_size
    with server:
        there = RemotePolicy(server.base_url, checkpoint, server="llama_cpp", timeout_s=60)
        found = difference(proposals(here, asked, cards), proposals(there, asked, cards))
    here.close()
    assert found.quality < 0.1


def test_a_file_is_written_once_and_never_half(
    checkpoint: Path, base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = gguf_of(checkpoint, base=base_folder, folder=tmp_path)
    before = path.stat().st_mtime_ns
    assert gguf_of(checkpoint, base=base_folder, folder=tmp_path) == path
    assert path.stat().st_mtime_ns == before

    def fail(*_args: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(export_gguf, "_add_tokenizer", fail)
    with pytest.raises(OSError, match="disk full"):
        export_merged(checkpoint, tmp_path / "other.gguf", base=base_folder)
    assert {p.name for p in tmp_path.iterdir()} == {path.name}


def test_what_can_not_be_written_is_told(
    checkpoint: Path, base_folder: Path, tmp_path: Path
) -> None:
    config = json.loads((base_folder / "config.json").read_text())
    with pytest.raises(ExportError, match=r"is a 'gpt2'; this exporter knows llama"):
        GgufShape.of(GPT2LMHeadModel.config_class().to_dict(), "it")
    scaled = {**config, "rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4}}
    with pytest.raises(ExportError, match="scales its positions by 'llama3'"):
        GgufShape.of(scaled, "it")
    merged = tiny_checkpoint.write(tmp_path / "merged", base_folder, weights="merged")
    with pytest.raises(CheckpointError, match="is merged and has no adapter"):
        export_adapter(merged, tmp_path / "a.gguf")
    copy = tmp_path / "dora"
    shutil.copytree(checkpoint, copy)
    lora = json.loads((copy / "adapter_config.json").read_text())
    with pytest.raises(ExportError, match="uses use_dora"):
        export_gguf._check_lora({**lora, "use_dora": True}, copy)


def test_the_command_line_writes_a_file_and_tells_what_is_wrong(
    checkpoint: Path, base_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "x.gguf"
    arguments = [str(checkpoint), str(out), "--base", str(base_folder), "--type", "f16"]
    assert export_gguf.main(arguments) == 0
    assert out.stat().st_size > 0
    assert export_gguf.main([str(tmp_path), str(out)]) == 1
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.timeout(3600)  # 400 prompts of a real model, on a machine that may be busy
@pytest.mark.skipif(
    "XROUTER_TEST_CHECKPOINT" not in os.environ, reason="XROUTER_TEST_CHECKPOINT names none"
)
def test_a_trained_checkpoint_decides_alike(tmp_path: Path, record_property: Any) -> None:
    folder = Path(os.environ["XROUTER_TEST_CHECKPOINT"])
    manifest = verify(folder)
    cards = [ModelCard(name=c.name, model=ScriptedChatModel(["x"])) for c in manifest.cards]
    asked = requests_of(conversations(200), 0.3)
    here = CheckpointPolicy(folder)
    with checkpoint_server(folder, folder=tmp_path) as server:
        there = RemotePolicy(server.base_url, folder, server="llama_cpp", timeout_s=900)
        local, remote = (proposals(policy, asked, cards) for policy in (here, there))
    here.close()
    found = difference(local, remote)
    record_property("difference", str(found))
    assert same_prompts(local, remote)
    assert found.contrast < EXACT and found.quality < EXACT and found.near_ties < EXACT
