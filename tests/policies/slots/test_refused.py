"""Which checkpoints are refused, what their folders hold, and how one is named."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import GraniteForCausalLM

from tests.support import tiny_checkpoint
from tests.support.tiny_checkpoint import (
    manifest,
    pool,
)
from tests.support.tiny_model import write_tiny_base
from training.model.base import load_base
from xrouter_lg import ModelCard
from xrouter_lg.checkpoints.manifest import CheckpointError
from xrouter_lg.errors import PolicyConfigError
from xrouter_lg.policies.resolve import resolve_policy
from xrouter_lg.policies.slots.policy import CheckpointPolicy
from xrouter_lg.testing import ScriptedChatModel

pytestmark = pytest.mark.train


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
