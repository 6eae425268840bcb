"""A checkpoint whose chat model does not answer: its value model decides, and that is told."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import numpy as np
import pytest
from langchain_core.messages import HumanMessage
from safetensors.numpy import save_file

from tests.support.flat_heads import PROMPTS, flat_head, manifest_of
from xrouter_lg import ModelCard, ModelPool, XRouterNode
from xrouter_lg.calls.told.notices import notices
from xrouter_lg.checkpoints.family_head import HEAD_FILE
from xrouter_lg.checkpoints.folder import write_checkpoint
from xrouter_lg.checkpoints.manifest import Manifest
from xrouter_lg.checkpoints.parts import BaseIdentity, LanguageModel, ToolsStats
from xrouter_lg.errors import PolicyError
from xrouter_lg.policies.tools.policy import ToolsPolicy
from xrouter_lg.testing import ScriptedChatModel
from xrouter_lg.types import RouteRequest

NAMES = ("small", "large")


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINY_KEY", "none")


def tools_policy(folder: Path, *, with_head: bool) -> ToolsPolicy:
    head = flat_head(NAMES, [0.9, 0.6], 1e-6 * np.eye(2))
    whole = dataclasses.replace(
        manifest_of(head, [0.9, 0.6], [1e-5, 1e-4]),
        kind="tools",
        language_model=LanguageModel(BaseIdentity("tiny", "0" * 64, "0" * 64, 2, 8), "adapter"),
        tools=ToolsStats(direct=False, turns=1, max_output_tokens=16),
    )
    manifest: Manifest = whole if with_head else dataclasses.replace(whole, family_head=None)

    def write_files(target: Path) -> None:
        if with_head:
            save_file(head.arrays, target / HEAD_FILE)

    folder.mkdir()
    written = write_checkpoint(folder, manifest, write_files)
    down = ModelCard(
        name="policy", model="openai:tiny", base_url="http://127.0.0.1:9/v1",
        api_key_env="TINY_KEY", price={"input": 0, "output": 0}, max_retries=0,
    )  # fmt: skip
    return ToolsPolicy(folder, written, down)


def pool() -> ModelPool:
    return ModelPool(
        [
            ModelCard(
                name=name,
                model=ScriptedChatModel(lambda _messages, name=name: name),
                price={"input": price, "output": price},
            )
            for name, price in zip(NAMES, (0.1, 10.0), strict=True)
        ],
        default="large",
    )


def test_the_value_model_decides_and_the_app_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    notices.clear()
    node = XRouterNode(pool(), policy=tools_policy(tmp_path / "checkpoint", with_head=True))
    with caplog.at_level(logging.WARNING, logger="xrouter_lg"):
        answers = [
            node.invoke({"messages": [HumanMessage(PROMPTS[0])]})["messages"][-1] for _ in range(3)
        ]
    record = answers[0].response_metadata["xrouter"]
    assert record["route"] == "small"
    assert record["reason"].startswith("the language model failed; expected score 0.90")
    told = [line for line in caplog.messages if "its value model decides alone" in line]
    assert len(told) == 1


async def test_without_a_value_model_the_failure_is_the_routers_matter(tmp_path: Path) -> None:
    policy = tools_policy(tmp_path / "checkpoint", with_head=False)
    with pytest.raises(PolicyError):
        await policy.propose(RouteRequest([HumanMessage("hi")], prompt_tokens=5), pool().cards)
