"""Several pools in one run: each source its own models, one policy for all."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from langchain_core.messages import HumanMessage

from tests.support.tiny_model import write_tiny_base
from training.config.grpo import GrpoSettings
from training.config.run import BaseConfig, DataConfig, RunConfig, load_config
from training.config.warm_start import WarmStartConfig
from training.data.inputs import Plan, plan
from training.model.base import load_base
from training.model.blocks import BlockReading
from training.model.reading import predict_rows
from training.model.slots import slot_model
from training.run.describe import describe
from training.run.estimate import estimate
from training.run.run import read_prompts
from training.train import run_plan
from training.warm_start.targets import card_samples, log_loss, measure_centre, soft_targets
from xrouter_lg.checkpoints.manifest import Manifest
from xrouter_lg.errors import ConfigurationError
from xrouter_lg.fitting.cost_model import fit_cost_model
from xrouter_lg.fitting.lesson import prior_log_odds
from xrouter_lg.judge.estimates import all_cards
from xrouter_lg.judge.run import Judged, judge_checkpoint
from xrouter_lg.judge.settings import JudgeSettings
from xrouter_lg.outcomes.split import trained_on
from xrouter_lg.policies.slots.policy import CheckpointPolicy
from xrouter_lg.prompts import slots
from xrouter_lg.types import RouteRequest
from xrouter_lg.value.means import group_means

pytestmark = pytest.mark.train

SOURCES = {
    # Each with its tasks and what its models cost; "shared" is a candidate in two of them.
    "maths": (("sum", "proof"), {"Cheap-1": 1e-4, "dear": 1e-2, "shared": 1e-3}),
    "tools": (("call", "none"), {"Cheap-1": 2e-4, "dear": 2e-2, "shared": 2e-3}),
    "games": (("chess", "go", "dice"), {"shared": 3e-3, "little": 1e-5}),
}
GROUPS = (("maths", "tools"), ("games",))
EACH = 120


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three sources. "dear" has answered some of the games, too: it does not cover them. "little"
    has answered every sum, but is of no group with them."""
    folder = tmp_path_factory.mktemp("outcomes")
    prompts, rows = [], []
    rng = np.random.default_rng(0)
    for source, (tasks, models) in SOURCES.items():
        for i in range(EACH):
            task = tasks[i % len(tasks)]
            key = {"source": source, "task": task, "prompt_id": str(i)}
            prompts.append({**key, "prompt": f"{task} number {i}", "category": "any"})
            asked = dict(models)
            if source == "games" and i % 2:
                asked["dear"] = 1e-2
            if source == "maths":
                asked["little"] = 1e-5
            for model, cost in asked.items():
                right = float(rng.random() < (0.9 if model == "dear" else 0.5))
                paid = cost * rng.uniform(0.5, 1.5)
                tokens = 1000 if model == "little" and source == "maths" else 9
                rows.append(
                    {**key, "model": model, "score": right, "cost_usd": paid,
                     "output_tokens": tokens}
                )  # fmt: skip
    pl.DataFrame(prompts).write_parquet(folder / "prompts.parquet")
    pl.DataFrame(rows).write_parquet(folder / "outcomes.parquet")
    return folder


def config(base_folder: Path, outcomes: Path, output: Path, **data: Any) -> RunConfig:
    return RunConfig(
        outcomes=str(outcomes),
        output=str(output),
        min_prompts=10,
        family_head_share=0.5,  # the language model has a say, whatever it would be worth
        data=DataConfig(**{"pools": GROUPS, **data}),
        base=BaseConfig(path=str(base_folder), model_id="tiny", dtype="float32"),
        warm_start=WarmStartConfig(
            epochs=2, frozen_layers=1, lora_rank=4, batch_size=4, learning_rate=1e-2
        ),
    )


@pytest.fixture(scope="module")
def ran(
    base_folder: Path, outcomes: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Plan, Manifest]:
    work = plan(config(base_folder, outcomes, tmp_path_factory.mktemp("run")))
    manifest = run_plan(work, lambda *_: None)
    assert manifest is not None
    return work, manifest


def judge(work: Plan, base_folder: Path, **changes: Any) -> Judged:
    root = Path(work.config.outcomes)
    return judge_checkpoint(
        JudgeSettings(
            checkpoint=work.folder / "checkpoint",
            outcomes=root / "outcomes.parquet",
            prompts=root / "prompts.parquet",
            base=base_folder,
            **{"baselines": False, "draws": 20, **changes},
        )
    )


# --- the table


def test_a_table_of_pools_holds_each_sources_own_models(ran: tuple[Plan, Manifest]) -> None:
    table = ran[0].table
    assert table.models == ("Cheap-1", "dear", "shared", "little")
    assert [pool.models for pool in table.pools()] == [
        ("Cheap-1", "dear", "shared"),
        ("little", "shared"),
    ]
    there = np.isfinite(table.score)
    assert (there == np.isfinite(table.cost)).all()
    assert there[table.pools()[0].rows].tolist() == [[True, True, True, False]] * 2 * EACH
    assert there[table.pools()[1].rows].tolist() == [[False, False, True, True]] * EACH
    first, second = table.parts()
    expected = (len(first) * first.cost[:, 1].mean() + len(second) * second.reference_cost()) / len(
        table
    )
    assert table.reference_cost() == pytest.approx(expected)


def test_a_block_is_what_a_pool_adds_and_speaks_of_its_own_tasks(
    ran: tuple[Plan, Manifest],
) -> None:
    work, manifest = ran
    assert work.cut.sizes == manifest.model.blocks == (3, 1)
    # A game is read behind both: one of its models stands in the first block.
    sums, games = (pool.rows for pool in work.table.pools())
    assert work.cut.read_N_K[games].all() and not work.cut.read_N_K[sums, 1].any()
    for line in work.lines[:3]:
        assert "sum" in line or "call" in line
        assert "chess" not in line
    assert "chess" in work.lines[3]
    assert [slots.render_prefix(work.lines[:3]), slots.render_prefix(work.lines[3:])] == list(
        work.prefixes
    )


def test_each_source_is_a_pool_of_its_own_unless_they_are_grouped(
    base_folder: Path, outcomes: Path, tmp_path: Path
) -> None:
    table = plan(config(base_folder, outcomes, tmp_path, pools="per_source")).table
    assert {pool.sources: pool.models for pool in table.pools()} == {
        ("games",): ("little", "shared"),
        ("maths",): ("Cheap-1", "dear", "little", "shared"),
        ("tools",): ("Cheap-1", "dear", "shared"),
    }
    few = plan(
        config(
            base_folder, outcomes, tmp_path,
            pools="per_source", sources=("maths", "games"), models=("dear", "little"),
        )
    ).table  # fmt: skip
    assert [pool.models for pool in few.pools()] == [("dear", "little"), ("little",)]


def test_one_pool_of_all_is_the_run_without_pools(
    base_folder: Path, outcomes: Path, tmp_path: Path
) -> None:
    found = []
    for name, pools in (("same", "same"), ("pools", (("maths",),))):
        asked = config(base_folder, outcomes, tmp_path / name, pools=pools, sources=("maths",))
        manifest = run_plan(plan(asked), lambda *_: None)
        assert manifest is not None
        found.append(manifest)
    same, pooled = found
    assert pooled.cards == same.cards and pooled.cost_model == same.cost_model
    assert pooled.dial == same.dial and pooled.c_ref_usd == same.c_ref_usd
    assert pooled.data["fingerprint"] == same.data["fingerprint"]
    assert pooled.metrics["held_out_log_loss"] == same.metrics["held_out_log_loss"]
    assert pooled.metrics["pools"][0]["aiq"] == same.metrics["aiq"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"data": {"pools": (("maths",), ("maths", "games"))}}, "each source in one of them"),
        ({"data": {"sources": ("maths",)}}, "differ in games, tools"),
        ({"data": {"models": ("dear",)}}, "covers every prompt of games"),
        ({"data": {"models": ("dear", "shared", "who")}}, "covered by who"),
        ({"data": {"leave_out": ("games|whist",)}}, "'games|whist', which is no family"),
        ({"data": {"leave_out": ("games",)}}, "0 prompts of games to learn from"),
        ({"data": {"family_fold": "4/3"}}, "family_fold is '4/3'"),
        ({"data": {"family_fold": "first"}}, "write K/N"),
        ({"grpo": GrpoSettings(steps=2)}, "grpo.steps is 2, which works on a single pool"),
        ({"codec": "tools"}, "codec is 'tools', which works on a single pool"),
    ],
)
def test_what_can_not_work_says_what_to_change(
    base_folder: Path, outcomes: Path, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    bad = config(base_folder, outcomes, tmp_path, **change.pop("data", {}))
    with pytest.raises(ConfigurationError, match=said.replace("|", r"\|")):
        plan(dataclasses.replace(bad, **change))


def test_pools_are_written_as_a_word_or_as_lists(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("data:\n  pools:\n    - [maths, tools]\n    - [games]\n")
    assert load_config(file).data.pools == GROUPS
    assert load_config(file, ["data.pools=per_source"]).data.pools == "per_source"
    assert load_config(file, ["data.pools=[[a], [b, c]]"]).data.pools == (("a",), ("b", "c"))
    for wrong in ("each", "[a, b]", "3"):
        with pytest.raises(ConfigurationError, match=r"data\.pools"):
            load_config(file, [f"data.pools={wrong}"])


# --- training and serving


def test_training_reads_the_very_tokens_that_serving_reads(
    ran: tuple[Plan, Manifest], base_folder: Path
) -> None:
    work, manifest = ran
    base = load_base(base_folder)
    reading = read_prompts(work, base, lambda *_: None)
    assert isinstance(reading, BlockReading)
    policy = CheckpointPolicy(work.folder / "checkpoint", base=base_folder)
    cards = {card.name: card for card in all_cards(manifest)}
    pools = manifest.data["pools"]
    try:
        for row in (0, 121, 250, 340):
            pool = next(p for p in pools if work.table.keys[row][0] in p["sources"])
            request = RouteRequest(messages=[HumanMessage(work.table.prompts[row])])
            blocks = np.flatnonzero(work.cut.read_N_K[row])
            read = reading.blocks(np.array([row]))
            trained = [reading.ids(int(number)) for _, numbers, _ in read for number in numbers]
            served = asyncio.run(policy.read(work.questions[row], blocks.tolist()))
            assert list(served.prompts) == trained
            chosen = [cards[name] for name in pool["cards"]]
            (found,) = policy.estimate([request], chosen)
            assert found.router_tokens == sum(len(ids) + 1 for ids in trained)
    finally:
        policy.close()


@pytest.mark.parametrize("recipe", ["cached", "plain"])
def test_a_pass_over_several_blocks_gives_what_each_gives_alone(
    ran: tuple[Plan, Manifest], base_folder: Path, recipe: str
) -> None:
    work = ran[0]
    warm = dataclasses.replace(work.config.warm_start, recipe=recipe)
    mixed = dataclasses.replace(work, config=dataclasses.replace(work.config, warm_start=warm))
    base = load_base(base_folder)
    reading = read_prompts(mixed, base, lambda *_: None)
    slot = slot_model(base, np.zeros(4), warm, blocks=work.cut.sizes)
    assert slot.slot_ids == tuple(base.slot_ids[letter] for letter in "ABCA")

    index = np.array([len(reading) - 1, 0, 5, len(reading) - 7, 359])
    together = reading.contrast(slot, **reading.inputs(index))
    for row, number in enumerate(index):
        alone = reading.contrast(slot, **reading.inputs([number]))
        assert together[row].tolist() == pytest.approx(alone[0].tolist(), abs=1e-4)
    together.sum().backward()
    assert any(p.grad is not None for p in slot.model.parameters() if p.requires_grad)


def test_a_row_teaches_the_cards_of_its_own_block_only(
    ran: tuple[Plan, Manifest], base_folder: Path
) -> None:
    work = ran[0]
    base = load_base(base_folder)
    reading = read_prompts(work, base, lambda *_: None)
    assert isinstance(reading, BlockReading)
    slot = slot_model(base, np.zeros(4), work.config.warm_start, blocks=work.cut.sizes)
    rows = np.array([3, 270])
    samples = card_samples(slot, reading, rows, work.table.score[rows])
    assert samples.prompt_N.tolist() == [3, 270, 360 + 30]
    known = np.isfinite(samples.target_N_L).tolist()
    assert known == [[True] * 3 + [False], [False, False, True, False], [False] * 3 + [True]]

    z = predict_rows(slot, reading, rows)
    assert np.isfinite(z).tolist() == [[True] * 3 + [False], [True] * 4]
    few = np.arange(0, len(work.table), 2)  # few enough to be measured on all of them
    measure_centre(slot, reading, few, 0)
    centred = predict_rows(slot, reading, few)
    assert np.nanmean(centred, axis=0) == pytest.approx(0.0, abs=1e-6)


def test_a_missing_token_count_of_another_pool_is_none_of_a_cards_own(
    ran: tuple[Plan, Manifest],
) -> None:
    # "little" wrote 1,000 tokens on sums, where it is no candidate.
    assert [card.output_tokens for card in ran[1].cards] == [9.0] * 4


# --- the judge


def test_the_judge_finds_pools_sides_and_figures_again(
    ran: tuple[Plan, Manifest], base_folder: Path
) -> None:
    work, manifest = ran
    found = judge(work, base_folder)

    assert "held-out side" in found.split and len(found.table) == len(work.test)
    served = found.choices.group_by("cost_weight").agg(
        pl.col("score").mean(), pl.col("cost_usd").mean()
    )
    by_weight = {row[0]: row[1:] for row in served.iter_rows()}
    for point in manifest.dial:
        assert by_weight[point.cost_weight] == pytest.approx((point.quality, point.cost_usd))
    data = found.to_json()
    pools = {tuple(p["sources"]): tuple(p["models"]) for p in data["pools"]}
    assert pools == {
        ("maths", "tools"): ("Cheap-1", "dear", "shared"),
        ("games",): ("little", "shared"),
    }
    assert set(data["outcomes_of_other_pools"]) == {"dear", "little"}
    router = found.choices.group_by("source").agg(pl.col("router_cost_usd").mean())
    usd = dict(router.iter_rows())
    assert usd["games"] > 1.5 * usd["maths"]
    measured = manifest.metrics
    assert measured["gain_over_zero_router"]["value"] == pytest.approx(
        data["gain_over_zero_router"]["value"], abs=2e-3
    )
    assert [tuple(p["sources"]) for p in measured["pools"]] == list(GROUPS)
    assert json.dumps(data)


def test_families_left_out_are_neither_learned_from_nor_held_out(
    ran: tuple[Plan, Manifest], base_folder: Path, outcomes: Path, tmp_path: Path
) -> None:
    work = plan(
        config(base_folder, outcomes, tmp_path, leave_out=("games|chess", "games|go", "maths|sum"))
    )
    gone = {"games|chess|any", "games|go|any", "maths|sum|any"}
    assert {work.table.families[i] for i in work.left_out} == gone
    assert not {work.table.families[i] for i in (*work.train, *work.test)} & gone
    assert "left out" in describe(work)
    manifest = run_plan(work, lambda *_: None)
    assert manifest is not None
    assert not set(manifest.data["families"]) & gone
    assert set(manifest.data["left_out"]) == gone
    assert manifest.data["left_out_prompts"] == 140
    assert manifest.data["fingerprint"] == ran[1].data["fingerprint"]

    found = judge(work, base_folder)
    assert len(found.table) == len(work.test)
    assert not set(found.table.families) & gone
    assert "140 of families left out" in found.split

    whole = judge(ran[0], base_folder, unseen=(tmp_path / "checkpoint",), baselines=True)
    by_pool = {pool.sources: pool.policy_row.unseen_gain for pool in whole.pools}
    assert set(by_pool) == {("maths", "tools"), ("games",)}
    assert all(gain is not None for gain in by_pool.values())


def test_a_fold_leaves_out_the_families_that_the_judge_would(
    base_folder: Path, outcomes: Path, tmp_path: Path
) -> None:
    gone: list[str] = []
    for fold in ("1/3", "2/3", "3/3"):
        work = plan(
            config(base_folder, outcomes, tmp_path, pools=(("maths", "tools"),), family_fold=fold)
        )
        families = sorted({work.table.families[i] for i in work.left_out})
        assert families and len(work.train) + len(work.test) + len(work.left_out) == 2 * EACH
        learned = trained_on(work.table.prompt_ids, seed=0, train_share=0.5)
        assert learned[work.train].all() and not learned[work.test].any()
        gone += families
    assert sorted(gone) == sorted({f"{s}|{t}|any" for s in GROUPS[0] for t in SOURCES[s][0]})


def test_an_estimate_counts_a_prompt_once_for_each_block(
    ran: tuple[Plan, Manifest], base_folder: Path, outcomes: Path, tmp_path: Path
) -> None:
    alone = plan(config(base_folder, outcomes, tmp_path, pools=(("maths", "tools"),)))
    games = sum(len(ran[0].questions[i]) for i in ran[0].table.pools()[1].rows)
    more = estimate(ran[0]).tokens - estimate(alone).tokens
    assert more == pytest.approx(2 * games / 3.0, abs=2)
    assert "blocks       2: 3 cards read for 360, 1 cards read for 120 prompts" in describe(ran[0])


# --- arithmetic with holes


def test_holes_change_nothing_elsewhere() -> None:
    rng = np.random.default_rng(1)
    score = rng.random((60, 3))
    cost = rng.uniform(0.5, 1.5, (60, 3))
    families = [f"kind {i % 3}" for i in range(60)]
    z, tokens, prior = rng.normal(size=(60, 3)), rng.uniform(5, 50, 60), np.zeros(3)
    more_score, more_cost = np.vstack([score, score]), np.vstack([cost, cost])
    more_score[60:, :2] = more_cost[60:, :2] = np.nan
    doubled = [*families, *(f"other {i % 2}" for i in range(60))]

    targets = soft_targets(more_score, doubled, 0.4)
    assert (targets[:60, :2] == soft_targets(score, families, 0.4)[:, :2]).all()
    assert np.isnan(targets[60:, :2]).all() and np.isfinite(targets[:, 2]).all()
    assert (prior_log_odds(more_score)[:2] == prior_log_odds(score)[:2]).all()
    own = log_loss(z, score)
    assert log_loss(np.vstack([z, z]), np.vstack([score, np.full((60, 3), np.nan)])) == (
        pytest.approx(own)
    )

    found = group_means(more_score, doubled)
    assert found[:3, :2] == pytest.approx(group_means(score, families)[:, :2])
    # A kind in which a card is unknown: its overall mean.
    overall = np.broadcast_to(np.nanmean(more_score, axis=0)[:2], (2, 2))
    assert found[3:, :2] == pytest.approx(overall)

    fitted = fit_cost_model(np.vstack([z, z]), np.r_[tokens, tokens], more_cost, prior)
    plain = fit_cost_model(z, tokens, cost, prior)
    assert fitted.weight[:2] == plain.weight[:2] and fitted.bias[:2] == plain.bias[:2]
