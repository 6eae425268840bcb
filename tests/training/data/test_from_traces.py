"""Traces in the place of an outcome table: a real router's store, collected once."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import polars as pl
import pytest
from langchain_core.messages import HumanMessage
from langgraph.graph import START, MessagesState, StateGraph

from tests.support.apps import pool
from tests.support.tiny_model import write_tiny_base
from training.config.collect import CollectConfig
from training.config.run import BaseConfig, RunConfig
from training.config.warm_start import WarmStartConfig
from training.data.from_traces import collect
from training.data.inputs import plan
from training.train import main
from xrouter_lg import Recorder, XRouterNode
from xrouter_lg.errors import ConfigurationError
from xrouter_lg.testing import FakeModel, FakeOpenAIServer

pytestmark = pytest.mark.train


def ask(store: Path, numbers: range) -> None:
    """An app asks both cards each question, and its recorder writes down what they say."""
    models = [FakeModel(name="small", reply="it is 1"), FakeModel(name="large", reply="it is 2")]
    recorder = Recorder(store)
    with FakeOpenAIServer(models) as server:
        for name in ("small", "large"):
            node = XRouterNode(
                pool(server, "small", "large"), policy=f"fixed:{name}", traces=recorder
            )
            graph = StateGraph(MessagesState)
            graph.add_node("model", node)
            graph.add_edge(START, "model")
            app = graph.compile()
            for i in numbers:
                app.invoke({"messages": [HumanMessage(f"question {i}")]})
    recorder.close()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    ask(folder / "traces.db", range(12))
    folder.joinpath("references.jsonl").write_text(
        "".join(
            json.dumps({"prompt": f"question {i}", "reference": f"it is {1 + i % 2}"}) + "\n"
            for i in range(20)
        )
    )
    folder.joinpath("verifiers.yaml").write_text("- exact\n")
    return folder


def config(made: Path, **changes: object) -> RunConfig:
    first = RunConfig(
        traces=f"sqlite:///{made / 'traces.db'}",
        collect=CollectConfig(
            verifiers=str(made / "verifiers.yaml"), references=str(made / "references.jsonl")
        ),
        min_prompts=3,
    )
    return dataclasses.replace(first, **changes)  # type: ignore[arg-type]


def test_traces_become_the_table_of_a_run(made: Path, tmp_path: Path) -> None:
    found = collect(config(made), tmp_path)

    table = pl.read_parquet(Path(found.outcomes) / "outcomes.parquet")
    assert len(table) == 24
    assert table.group_by("model").agg(pl.col("score").mean()).sort("model")["score"].to_list() == [
        0.5,
        0.5,
    ]
    assert table["cost_usd"].min() > 0  # type: ignore[operator]


def test_a_table_is_made_again_only_when_the_store_holds_more(made: Path, tmp_path: Path) -> None:
    store = tmp_path / "traces.db"
    ask(store, range(3))
    said: list[str] = []
    asked = config(made, traces=str(store))

    collect(asked, tmp_path / "run", said.append)
    collect(asked, tmp_path / "run", said.append)
    assert len(said) == 1

    ask(store, range(3, 5))
    found = collect(asked, tmp_path / "run", said.append)
    assert len(said) == 2
    assert len(pl.read_parquet(Path(found.outcomes) / "prompts.parquet")) == 5


def test_a_run_trains_from_traces_in_one_command(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = write_tiny_base(tmp_path / "base")
    file = tmp_path / "run.yaml"
    file.write_text(
        "min_prompts: 2\nbase: {dtype: float32, model_id: tiny}\n"
        "warm_start: {frozen_layers: 1, epochs: 1, batch_size: 2, lora_rank: 4}\n"
        f"collect: {{verifiers: {made / 'verifiers.yaml'}, "
        f"references: {made / 'references.jsonl'}}}\n"
    )
    command = [
        "--config", str(file), f"traces=sqlite:///{made / 'traces.db'}",
        f"output={tmp_path / 'run'}", f"base.path={base}",
    ]  # fmt: skip

    assert main([*command, "--dry-run"]) == 0
    assert not (tmp_path / "run").exists()
    assert main(command) == 0

    assert (tmp_path / "run" / "checkpoint" / "manifest.json").is_file()
    assert '"outcomes": 24' in capsys.readouterr().err


def test_a_conversation_is_trained_on_as_it_would_be_served(tmp_path: Path) -> None:
    key = {"source": "s", "task": "t"}
    said = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "hi"},
        {"role": "user", "content": "and now?"},
    ]
    prompts = [
        {**key, "prompt_id": str(i), "prompt": "and now?", "category": "c",
         "meta": json.dumps({"messages": said}) if i else None}
        for i in range(12)
    ]  # fmt: skip
    rows = [
        {**key, "prompt_id": str(i), "model": m, "score": 1.0, "cost_usd": 1e-3}
        for i in range(12)
        for m in ("a", "b")
    ]
    pl.DataFrame(prompts).write_parquet(tmp_path / "prompts.parquet")
    pl.DataFrame(rows).write_parquet(tmp_path / "outcomes.parquet")
    base = write_tiny_base(tmp_path / "base")

    work = plan(
        RunConfig(
            outcomes=str(tmp_path),
            min_prompts=2,
            base=BaseConfig(path=str(base)),
            warm_start=WarmStartConfig(frozen_layers=1),
        )
    )

    assert "system: Be brief." in work.questions[1]
    assert "<context>" not in work.questions[0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"outcomes": "somewhere"}, "learns from one of them"),
        ({"traces": "sqlite:////nowhere/traces.db"}, "traces='sqlite:////nowhere"),
        ({"traces": "langsmith:"}, "names no project"),
        ({"collect": CollectConfig(verifiers="none.yaml")}, "none.yaml"),
        ({"collect": CollectConfig(references="none.jsonl")}, "none.jsonl"),
        ({"collect": CollectConfig(project="another")}, "no outcome"),
    ],
)
def test_traces_that_give_no_table_are_refused_with_what_is_wrong(
    made: Path, tmp_path: Path, change: dict[str, object], said: str
) -> None:
    with pytest.raises(ConfigurationError, match=said):
        collect(config(made, **change), tmp_path)


def test_a_run_without_traces_is_left_as_it_is(tmp_path: Path) -> None:
    plain = RunConfig(outcomes="somewhere")

    assert collect(plain, tmp_path) is plain
