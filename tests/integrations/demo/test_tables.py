"""The recorded tables: complete, what the generator makes, and worth routing on."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from integrations.demo.recorded.build import HERE, PRICES, read_prices
from integrations.demo.recorded.card import (
    COST_WEIGHTS,
    FILES,
    digests,
    family_table,
    means,
    update_card,
)
from integrations.demo.recorded.generate import tasks
from integrations.demo.recorded.record import MODELS
from integrations.demo.recorded.scores import Scorer
from integrations.llama_cpp.catalogue import get_weights
from integrations.llama_cpp.measure import Throughput, token_price
from xrouter_lg.outcomes import OutcomeTable


@pytest.fixture(scope="module")
def table() -> OutcomeTable:
    return OutcomeTable.load(HERE)


@pytest.fixture(scope="module")
def rows(table: OutcomeTable) -> pl.DataFrame:
    prompts = table.prompts.select("prompt_id", "prompt", "reference", "meta")
    return table.outcomes.join(prompts, on="prompt_id").collect()


def test_every_model_has_answered_every_task(table: OutcomeTable, rows: pl.DataFrame) -> None:
    assert table.validate().ok
    assert rows.height >= 3 * 1200
    counts = dict(rows.group_by("model").len().iter_rows())
    assert counts == dict.fromkeys(MODELS, rows.height // 3)
    assert rows.select("score", "cost_usd", "response").null_count().sum_horizontal().item() == 0


def test_the_tables_hold_what_the_generator_makes(table: OutcomeTable) -> None:
    made = {t.prompt_id: (t.family, t.prompt, t.reference, t.max_tokens) for t in tasks()}
    columns = ("prompt_id", "task", "prompt", "reference", "meta")
    recorded = {
        prompt_id: (task, prompt, reference, json.loads(meta)["max_tokens"])
        for prompt_id, task, prompt, reference, meta in (
            table.prompts.select(columns).collect().iter_rows()
        )
    }
    assert recorded == made


def test_costs_are_tokens_times_prices(rows: pl.DataFrame) -> None:
    prices = read_prices()
    for model, inputs, outputs, cost in rows.select(
        "model", "input_tokens", "output_tokens", "cost_usd"
    ).iter_rows():
        expected = (inputs * prices[model].input + outputs * prices[model].output) / 1e6
        assert cost == pytest.approx(expected, rel=1e-9)


def test_prices_follow_from_the_measured_speed_of_the_pinned_weights() -> None:
    data = json.loads(PRICES.read_text())
    for model, found in data["models"].items():
        assert found["sha256"] == get_weights(model).sha256
        speed = found["tokens_per_s"]
        measured = Throughput(
            input_tps=speed["input"],
            cached_input_tps=speed["cached_input"],
            output_tps=speed["output"],
            measured_at=found["measured_at"],
        )
        price = token_price(measured, usd_per_hour=data["usd_per_hour"])
        for name, usd in found["usd_per_million"].items():
            assert getattr(price, name) == pytest.approx(usd, rel=2e-3)


def test_no_answer_is_longer_than_its_limit(rows: pl.DataFrame) -> None:
    limits = rows["meta"].map_elements(lambda m: json.loads(m)["max_tokens"], return_dtype=pl.Int64)
    assert (rows["output_tokens"] <= limits).all()


def test_verifiers_still_give_the_recorded_scores(rows: pl.DataFrame) -> None:
    # Code is left to the builder: a sandbox per answer takes too long here.
    some = rows.filter(pl.col("task") != "code_functions").sort("prompt_id", "model")
    some = some.gather_every(23)
    with Scorer() as judge:
        verdicts = judge.verdicts(some.select("task", "response", "reference").iter_rows())
    assert [verdict.score for verdict in verdicts] == some["score"].to_list()


@pytest.mark.parametrize("weight", COST_WEIGHTS)
def test_no_model_is_the_best_everywhere_at_its_price(table: OutcomeTable, weight: float) -> None:
    whole, of = means(table, "model"), means(table, "task", "model")
    c_ref = max((score, cost) for _, score, cost in whole.values())[1]
    best = {
        max(MODELS, key=lambda m: of[task, m][1] - weight * of[task, m][2] / c_ref)
        for task in {key[0] for key in of}
    }
    assert best == set(MODELS)


def test_every_family_has_an_answer_that_is_right_and_one_that_is_wrong(
    table: OutcomeTable,
) -> None:
    for (task,), (_, score, _) in means(table, "task").items():
        assert 0.0 < score < 1.0, task


def test_the_card_says_what_the_files_hold(table: OutcomeTable) -> None:
    card = HERE.joinpath("README.md").read_text()
    assert family_table(table) in card and digests(HERE) in card
    assert sum(HERE.joinpath(name).stat().st_size for name in FILES) < 3_000_000


def test_a_card_without_a_place_for_the_table_is_refused(
    tmp_path: Path, table: OutcomeTable
) -> None:
    table.write(tmp_path)
    tmp_path.joinpath("README.md").write_text("no marks")
    with pytest.raises(ValueError, match="0 places for 'families'"):
        update_card(tmp_path, table)
