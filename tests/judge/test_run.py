"""A checkpoint judged for real: a tiny language model, its serving policy, files and command."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from langchain_core.messages import AIMessage, HumanMessage
from typer.testing import CliRunner

from tests.judge.made import write_tables
from tests.support.langsmith_server import LangSmithServer
from tests.support.tiny_checkpoint import CENTRE, NAMES, line, trained
from tests.support.tiny_model import write_tiny_base
from training.model.base import load_base
from training.run.export import export
from xrouter_lg.calls.tokens import prompt_size
from xrouter_lg.checkpoints.manifest import Manifest
from xrouter_lg.checkpoints.parts import CardStats, LanguageModel
from xrouter_lg.cli import app
from xrouter_lg.judge import estimates as estimates_module
from xrouter_lg.judge.choices import ROUTER_USD_PER_MILLION
from xrouter_lg.judge.estimates import all_cards, estimate_prompts
from xrouter_lg.judge.run import Judged, judge_checkpoint
from xrouter_lg.judge.score import COLUMNS
from xrouter_lg.judge.settings import JudgeSettings
from xrouter_lg.outcomes import OutcomeTable
from xrouter_lg.outcomes.grid import OutcomeGrid
from xrouter_lg.outcomes.split import random_split, trained_on
from xrouter_lg.policies.slots.policy import CheckpointPolicy
from xrouter_lg.types import RouteRequest

pytestmark = pytest.mark.train

N = 240


def outcomes() -> OutcomeGrid:
    rng = np.random.default_rng(3)
    words = ["sum", "poem", "city", "bug", "verb"]
    prompts = tuple(f"{words[i % 5]} {i} " + "please " * (i % 7) for i in range(N))
    score = (rng.random((N, 3)) < [0.5, 0.6, 0.8]).astype(float)
    cost = np.array([1e-5, 1e-4, 1e-3]) * rng.uniform(0.5, 1.5, (N, 3))
    ids = tuple((f"{i:03}",) for i in range(N))
    families = tuple(words[i % 5] for i in range(N))
    return OutcomeGrid(ids, prompts, families, NAMES, score, cost)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a run over half of `data`, its base beside it."""
    root = tmp_path_factory.mktemp("judge")
    write_tables(root / "data", outcomes())
    base = load_base(write_tiny_base(root / "run" / "base"))
    # A run's cards stand in the order of its table.
    table = OutcomeTable.load(root / "data").complete_grid(models=NAMES)
    train, _ = random_split(table, seed=0)
    mean, cost = train.score.mean(0), train.cost.mean(0)
    cards = tuple(
        CardStats(name, line(name), float(np.log(p / (1 - p))), CENTRE, 50.0, float(usd), None)
        for name, p, usd in zip(NAMES, mean, cost, strict=True)
    )
    manifest = Manifest(
        kind="slots",
        language_model=LanguageModel(base.identity, "adapter"),
        cards=cards,
        c_ref_usd=train.reference_cost(),
        best_fixed="large",
        data={
            "split": "random",
            "split_seed": 0,
            "families": sorted(set(train.families)),
            "fingerprint": table.fingerprint(),
        },
        config={"data": {"train_share": 0.5, "sources": [], "rename": {"LARGE one": "large"}}},
    )
    export(root / "run" / "checkpoint", trained(base), base, manifest)
    return root


def settings(folder: Path, **changes: Any) -> JudgeSettings:
    return replace(
        JudgeSettings(
            checkpoint=folder / "run" / "checkpoint",
            outcomes=folder / "data" / "outcomes.parquet",
            prompts=folder / "data" / "prompts.parquet",
            draws=40,
            baselines=False,
            cache=folder / "cache",
        ),
        **changes,
    )


@pytest.fixture(scope="module")
def judged(folder: Path) -> Judged:
    return judge_checkpoint(settings(folder, split="all"))


@pytest.fixture
def policy(folder: Path) -> Any:
    policy = CheckpointPolicy(folder / "run" / "checkpoint", base=folder / "run" / "base")
    yield policy
    policy.close()


async def test_what_is_judged_is_what_serving_proposes(judged: Judged, policy: Any) -> None:
    cards = all_cards(policy.manifest)
    for weight in sorted(judged.choices["cost_weight"].unique())[::6]:
        rows = judged.choices.filter(pl.col("cost_weight") == weight)
        for n in range(0, N, 40):
            messages = [HumanMessage(judged.table.prompts[n])]
            likely = prompt_size(messages).likely
            request = RouteRequest(messages=messages, prompt_tokens=likely, cost_weight=weight)
            proposal = await policy.propose(request, cards)
            best = max(proposal.probabilities, key=lambda name: proposal.probabilities[name])
            assert rows["model"][n] == best
            assert rows["probability"][n] == pytest.approx(proposal.quality[best], abs=1e-4)


async def test_the_router_pays_for_the_tokens_it_really_reads(judged: Judged, policy: Any) -> None:
    n = 17
    request = RouteRequest(messages=[HumanMessage(judged.table.prompts[n])], prompt_tokens=9)
    proposal = await policy.propose(request, all_cards(policy.manifest))
    tokens = len(proposal.token_ids["prompt_token_ids"]) + 1
    router = judged.choices.filter(pl.col("cost_weight") == 0.0)["router_cost_usd"][n]
    assert router == pytest.approx(tokens * ROUTER_USD_PER_MILLION / 1e6)


def test_outcomes_change_what_is_paid_and_never_what_is_chosen(
    judged: Judged, folder: Path, tmp_path: Path
) -> None:
    frame = pl.read_parquet(folder / "data" / "outcomes.parquet")
    other = frame.with_columns(score=1 - pl.col("score"), cost_usd=pl.col("cost_usd") * 7)
    other.write_parquet(tmp_path / "o.parquet")
    again = judge_checkpoint(settings(folder, outcomes=tmp_path / "o.parquet", split="all"))
    assert again.choices["model"].equals(judged.choices["model"])
    assert again.choices["cost_usd"].to_numpy() == pytest.approx(
        7 * judged.choices["cost_usd"].to_numpy()
    )


def test_readings_are_kept_and_an_interrupt_loses_one_batch_at_most(
    policy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [f"question {i}" for i in range(40)]
    monkeypatch.setattr(estimates_module, "_BATCH", 10)
    read, calls = policy.read_many, []

    def reads(questions: Any, blocks: Any) -> Any:
        calls.append(len(questions))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return read(questions, blocks)

    monkeypatch.setattr(policy, "read_many", reads)
    with pytest.raises(KeyboardInterrupt):
        estimate_prompts(policy, asked(prompts), cache=tmp_path)
    calls.append(0)
    first = estimate_prompts(policy, asked(prompts), cache=tmp_path)
    assert calls == [10, 10, 10, 0, 10, 10]
    again = estimate_prompts(policy, asked([*prompts[::-1], prompts[3]]), cache=tmp_path)
    assert calls == [10, 10, 10, 0, 10, 10]
    assert again.quality[:40][::-1] == pytest.approx(first.quality)
    assert (again.quality[40] == first.quality[3]).all()


def asked(texts: Sequence[str]) -> list[list[HumanMessage]]:
    return [[HumanMessage(text)] for text in texts]


def test_batches_do_not_change_an_estimate(policy: Any) -> None:
    prompts = ["short", "a longer question " * 12, "middle " * 5]
    together = estimate_prompts(policy, asked(prompts))
    alone = estimate_prompts(policy, asked(prompts[1:2]))
    assert together.quality[1] == pytest.approx(alone.quality[0], abs=1e-4)
    assert together.tokens[1] == alone.tokens[0]


def test_the_table_of_the_run_is_split_as_the_run_did(folder: Path) -> None:
    found = judge_checkpoint(settings(folder))
    ids = [f"made|mixed|{i:03}" for i in range(N)]
    held = ~trained_on(ids, seed=0, train_share=0.5)
    assert found.table.prompt_ids == tuple(np.array(ids)[held])
    assert "held-out side" in found.split
    pool = found.pools[0]
    assert pool.verdict is not None and pool.parts["all"].reference_from == "train"


def test_a_table_it_never_saw_is_judged_whole(folder: Path, tmp_path: Path) -> None:
    frame = pl.read_parquet(folder / "data" / "outcomes.parquet")
    frame.with_columns(source=pl.lit("new")).write_parquet(tmp_path / "o.parquet")
    texts = pl.read_parquet(folder / "data" / "prompts.parquet")
    texts.with_columns(source=pl.lit("new")).write_parquet(tmp_path / "p.parquet")
    found = judge_checkpoint(
        settings(folder, outcomes=tmp_path / "o.parquet", prompts=tmp_path / "p.parquet")
    )
    assert len(found.table) == N and found.split == "every prompt of the table"
    pool = found.pools[0]
    assert pool.verdict is None and pool.parts["all"].reference_from == "checkpoint"
    # None of its families is one that it has learned from.
    assert pool.parts["unseen families"].prompts == N


def test_pools_change_with_the_source_and_strangers_are_reported(
    folder: Path, tmp_path: Path
) -> None:
    frame = pl.read_parquet(folder / "data" / "outcomes.parquet")
    texts = pl.read_parquet(folder / "data" / "prompts.parquet")
    two = frame.filter(pl.col("model") != "medium").with_columns(source=pl.lit("two"))
    odd = frame.filter(pl.col("model") == "small").with_columns(
        source=pl.lit("odd"), model=pl.lit("who?")
    )
    named = frame.with_columns(pl.col("model").replace({"large": "LARGE one"}))
    pl.concat([named, two, odd]).write_parquet(tmp_path / "o.parquet")
    every = [texts.with_columns(source=pl.lit(name)) for name in ("made", "two", "odd")]
    pl.concat(every).write_parquet(tmp_path / "p.parquet")
    found = judge_checkpoint(
        settings(
            folder, outcomes=tmp_path / "o.parquet", prompts=tmp_path / "p.parquet", split="all"
        )
    )
    data = found.to_json()
    assert {p["sources"]: p["models"] for p in data["pools"]} == {
        ("made",): ("large", "medium", "small"),
        ("two",): ("large", "small"),
    }
    assert data["models_unknown_to_checkpoint"] == {"who?": N}
    assert data["prompts_without_candidate"] == N and data["prompts"] == 2 * N
    assert data["gain_over_zero_router"]["value"] is not None
    taken = found.choices.group_by("source").agg(pl.col("model").unique())
    assert dict(taken.iter_rows())["two"] is not None
    assert "medium" not in found.choices.filter(pl.col("source") == "two")["model"].to_list()


def test_what_was_learned_from_is_not_judged(folder: Path) -> None:
    with pytest.raises(ValueError, match="240 prompts are in both tables"):
        judge_checkpoint(
            settings(
                folder,
                train_outcomes=folder / "data" / "outcomes.parquet",
                train_prompts=folder / "data" / "prompts.parquet",
            )
        )


def test_a_checkpoint_of_other_families_fills_the_unseen_column(folder: Path) -> None:
    base = load_base(folder / "run" / "base")
    kept = CheckpointPolicy(folder / "run" / "checkpoint", base=folder / "run" / "base").manifest
    half = [f for f in kept.data["families"] if "sum" in f or "poem" in f]
    manifest = replace(kept, files={}, data={**kept.data, "families": half})
    export(folder / "run" / "other", trained(base), base, manifest)
    found = judge_checkpoint(settings(folder, unseen=(folder / "run" / "other",)))
    assert found.pools[0].policy_row.unseen_gain is not None
    with pytest.raises(ValueError, match="learned from every family"):
        judge_checkpoint(settings(folder, unseen=(folder / "run" / "checkpoint",)))


def test_the_command_works_from_a_fresh_process(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "choices.parquet"
    command = [sys.executable, "-m", "xrouter_lg.cli", "judge"]
    if not Path(__file__).parents[2].joinpath("xrouter_lg", "cli", "__main__.py").exists():
        command = [sys.executable, "-c", "from xrouter_lg.cli import main; main()", "judge"]
    ran = subprocess.run(
        [
            *command,
            *("--checkpoint", str(folder / "run" / "checkpoint")),
            *("--outcomes", str(folder / "data" / "outcomes.parquet")),
            *("--prompts", str(folder / "data" / "prompts.parquet")),
            *("--choices", str(out), "--cache", str(tmp_path / "cache"), "--draws", "30"),
            *("--split", "all", "--json"),
        ],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    data = json.loads(ran.stdout)
    frame = pl.read_parquet(out)
    assert frame.columns == list(COLUMNS)
    weights = frame["cost_weight"].n_unique()
    assert weights >= 8 and frame.height == weights * N == weights * data["prompts"]


def test_the_exit_code_tells_ci_only_when_asked(folder: Path, tmp_path: Path) -> None:
    run = folder / "run"
    arguments = ["judge", "--checkpoint", str(run / "checkpoint")]
    arguments += ["--outcomes", str(folder / "data"), "--draws", "30"]
    arguments += ["--cache", str(folder / "cache")]
    page = tmp_path / "report.html"
    found = CliRunner().invoke(app, [*arguments, "--report", str(page), "--no-baselines"])
    assert found.exit_code == 0, found.output
    assert "Do not promote" in page.read_text() and page.with_suffix(".json").exists()
    assert CliRunner().invoke(app, [*arguments, "--gate"]).exit_code == 3
    wrong = CliRunner().invoke(app, [*arguments, "--models", "nobody"])
    assert wrong.exit_code == 2 and "nobody" in wrong.output


def test_what_was_chosen_is_pushed_as_an_experiment(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LANGSMITH_API_KEY", "lsv2_pt_0123456789abcdef0123456789abcdef")
    arguments = ["judge", "--checkpoint", str(folder / "run" / "checkpoint")]
    arguments += ["--outcomes", str(folder / "data" / "outcomes.parquet")]
    arguments += ["--prompts", str(folder / "data" / "prompts.parquet"), "--draws", "30"]
    arguments += ["--cache", str(folder / "cache"), "--push", "candidate"]
    lone = CliRunner().invoke(app, arguments)
    assert lone.exit_code == 2 and "--dataset" in lone.output
    arguments += ["--dataset", "held out"]
    held = sum(~trained_on([f"made|mixed|{i:03}" for i in range(N)], seed=0, train_share=0.5))
    with LangSmithServer() as server:
        for new in (held, 0):
            found = CliRunner().invoke(app, [*arguments, "--endpoint", server.url])
            assert found.exit_code == 0, found.output
            assert f"({new} new), {new} new runs" in found.output
        assert len(server.examples) == held
        (experiment,) = server.query({"session": [server.session("candidate")["id"]]})[:1]
    assert experiment["outputs"]["model"] in NAMES


async def test_a_conversation_is_judged_as_it_is_served(folder: Path, tmp_path: Path) -> None:
    """Not by its last message alone."""
    prompts = pl.read_parquet(folder / "data" / "prompts.parquet")
    before = [
        {"role": "user", "content": "a poem about bugs"},
        {"role": "assistant", "content": "!"},
    ]
    said = [
        json.dumps({"messages": [*before, {"role": "user", "content": text}]})
        for text in prompts["prompt"]
    ]
    prompts.with_columns(meta=pl.Series(said)).write_parquet(tmp_path / "p.parquet")
    alone = judge_checkpoint(settings(folder, split="all"))
    whole = judge_checkpoint(settings(folder, split="all", prompts=tmp_path / "p.parquet"))
    at = whole.choices["cost_weight"] == 0.3
    row = whole.choices.filter(at).row(0, named=True)
    messages = [HumanMessage("a poem about bugs"), AIMessage("!")]
    messages.append(HumanMessage(whole.table.prompts[0]))
    likely = prompt_size(messages).likely
    request = RouteRequest(messages=messages, prompt_tokens=likely, cost_weight=0.3)
    policy = CheckpointPolicy(folder / "run" / "checkpoint", base=folder / "run" / "base")
    try:
        proposal = await policy.propose(request, all_cards(policy.manifest))
    finally:
        policy.close()
    assert row["probability"] == pytest.approx(proposal.quality[row["model"]], abs=1e-4)
    lone = alone.choices.filter(alone.choices["cost_weight"] == 0.3).row(0, named=True)
    assert row["router_cost_usd"] > lone["router_cost_usd"]
