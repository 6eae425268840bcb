"""`xrouter judge` on a log of checkpoints that may make several calls, or answer themselves."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from tests.support.flat_heads import flat_head, manifest_of
from tests.support.logs import CARDS, USD, World, always
from tests.support.tables import write_log
from xrouter_lg.checkpoints.folder import read_manifest, write_checkpoint
from xrouter_lg.checkpoints.parts import BaseIdentity, LanguageModel, ToolsStats
from xrouter_lg.cli import app
from xrouter_lg.policies.slots.remote import model_name
from xrouter_lg.prompts import tools as codec
from xrouter_lg.testing import FakeModel, FakeOpenAIServer, Reply, ToolCall

runner = CliRunner()
N = 300


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    table = World.of(N).log(always("large", N, 0.3), wrong=0.1)
    return write_log(table, tmp_path_factory.mktemp("logs") / "log")


def chat_checkpoint(folder: Path) -> Path:
    """A chat model that calls cards as tools; a server has its weights."""
    head = flat_head(CARDS, [0.5] * 3, 1e-6 * np.eye(3))
    manifest = dataclasses.replace(
        manifest_of(head, [0.5] * 3, USD.tolist()),
        kind="tools",
        family_head=None,
        language_model=LanguageModel(
            BaseIdentity("tiny", "0" * 64, "0" * 64, 2, 8), "adapter", codec.prompt_hash()
        ),
        tools=ToolsStats(direct=True, turns=1, max_output_tokens=16),
    )
    write_checkpoint(folder, manifest, lambda target: None)
    return folder


def calls(*cards: str) -> Reply:
    return Reply(tool_calls=[ToolCall(f"call_{card}", {}) for card in cards])


def judged(folder: Path, table: Path, reply: Any, *more: str) -> tuple[int, str]:
    with FakeOpenAIServer(
        [FakeModel(name=model_name(read_manifest(folder)), reply=reply)]
    ) as server:
        done = runner.invoke(
            app,
            ["judge", "--checkpoint", str(folder), "--cost-weight", "0.05", "--json",
             "--outcomes", str(table / "outcomes.parquet"),
             "--prompts", str(table / "prompts.parquet"), "--server", f"vllm:{server.base_url}",
             *more],
        )  # fmt: skip
    return done.exit_code, done.output


def test_a_chat_model_that_makes_one_call_is_judged_on_a_log(log: Path, tmp_path: Path) -> None:
    folder = chat_checkpoint(tmp_path / "chat")

    code, said = judged(folder, log, calls("small"))

    assert code == 0, said
    verdict = json.loads(said)["pools"][0]["verdict"]
    # Of code it is right one time in five: that is worse than what the log did.
    assert verdict["over_log"]["model"]["value"] < 0
    assert json.loads(said)["promote"] is False


@pytest.mark.parametrize("reply", [calls("small", "coder"), "Hello!"], ids=["two", "itself"])
def test_several_calls_and_own_answers_are_refused_on_a_log(
    log: Path, tmp_path: Path, reply: str | Reply
) -> None:
    code, said = judged(chat_checkpoint(tmp_path / "chat"), log, reply)
    assert code == 2
    assert f"of its {N} requests the checkpoint answers {N} itself or by several calls" in said


def test_an_own_answer_is_right_where_the_table_marks_the_prompt(tmp_path: Path) -> None:
    world = World.of(60)
    table = write_log(
        dataclasses.replace(
            world.grid(),
            more={
                name: np.full((60, 3), None if name == "scored_by" else np.nan)
                for name in ("propensity", "observed_at", "scored_by")
            },
        ),
        tmp_path / "table",
    )
    prompts = pl.read_parquet(table / "prompts.parquet")
    marked = prompts.with_columns(must_not_call=pl.int_range(pl.len()) < 15)
    marked.write_parquet(table / "prompts.parquet")
    file = tmp_path / "choices.parquet"

    code, said = judged(chat_checkpoint(tmp_path / "chat"), table, "Hello!", "--choices", str(file))

    assert code == 0, said
    choices = pl.read_parquet(file)
    assert choices["model"].null_count() == choices.height
    assert choices["score"].mean() == pytest.approx(0.25)
