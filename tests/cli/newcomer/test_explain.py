"""``xrouter explain`` on a checkpoint that the fitting code has written, and on recorded requests
of a real graph that it has routed."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from typer.testing import CliRunner

from tests.support import apps
from tests.support.logs import CARDS, USD, World
from xrouter_lg import ModelPool, Recorder, XRouterNode
from xrouter_lg.checkpoints.folder import read_manifest
from xrouter_lg.cli import app
from xrouter_lg.cli.newcomer.reading import RequestReader
from xrouter_lg.fitting.head_checkpoint import write_head
from xrouter_lg.fitting.read_lesson import LessonSettings, lesson_of
from xrouter_lg.policies.head import HeadPolicy
from xrouter_lg.types import RouteRequest

CODE = "python function compile loop regex stack array"
CHAT = "hello friend please tell story dinner garden"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two kinds of requests, of which small answers one and coder the other."""
    folder = tmp_path_factory.mktemp("checkpoints") / "mine"
    write_head(folder, lesson_of(World.of(1200, seed=2).grid(), LessonSettings()))
    return folder


def explained(*args: str | Path) -> dict[str, Any]:
    found = CliRunner().invoke(app, ["explain", *map(str, args), "--json"])
    assert found.exit_code == 0, found.output
    read: dict[str, Any] = json.loads(found.stdout)
    return read


def pool_of(*names: str) -> ModelPool:
    dear = dict(zip(CARDS, USD, strict=True))
    prices = {name: {"input": "0.01", "output": f"{dear[name] * 1e3:g}"} for name in names}
    return ModelPool([apps.scripted(name, price=prices[name]) for name in names])


async def served(checkpoint: Path, read: dict[str, Any], weight: float) -> str:
    """The card that the policy itself proposes."""
    text = HumanMessage(read["text"])
    request = RouteRequest([text], cost_weight=weight, prompt_tokens=read["prompt_tokens"])
    cards = RequestReader(checkpoint).pool.cards
    found = await HeadPolicy(checkpoint).propose(request, cards)
    return max(found.probabilities, key=found.probabilities.__getitem__)


def test_the_kind_is_told_with_the_words_that_tell_it(checkpoint: Path) -> None:
    kind = explained(CODE, "--checkpoint", checkpoint)["kind"]
    assert kind["probability"] > 0.5 and kind["telling"]
    assert set(kind["telling"]) <= set(CODE.split()) - set(kind["unknown"])
    other = explained(CHAT, "--checkpoint", checkpoint)["kind"]
    assert set(other["telling"]) <= set(CHAT.split())
    assert other["name"] != kind["name"]


def test_the_card_of_each_kind_is_taken(checkpoint: Path) -> None:
    assert explained(CODE, "--checkpoint", checkpoint)["taken"] == "coder"
    assert explained(CHAT, "--checkpoint", checkpoint)["taken"] == "small"


@pytest.mark.parametrize("text", [CODE, CHAT])
@pytest.mark.parametrize("weight", [0.0, 0.05, 0.3, 1.0, 4.0])
async def test_what_would_change_the_choice_changes_it(
    checkpoint: Path, text: str, weight: float
) -> None:
    read = explained(text, "--checkpoint", checkpoint, "--cost-weight", str(weight))
    read["text"] = text
    assert await served(checkpoint, read, weight) == read["taken"]
    for side, sign in (("cheaper", 1), ("dearer", -1)):
        turn = read[side]
        if turn is None:
            end = 1000.0 if side == "cheaper" else 0.0
            assert await served(checkpoint, read, end) == read["taken"]
            continue
        before = turn["cost_weight"] - sign * 1e-6
        assert await served(checkpoint, read, max(before, 0.0)) == read["taken"]
        assert await served(checkpoint, read, turn["cost_weight"] + sign * 1e-6) == turn["card"]


def test_the_decision_counts_on_no_more_than_is_expected(checkpoint: Path) -> None:
    cards = explained(CODE, "--checkpoint", checkpoint)["cards"]
    assert {card["name"] for card in cards} == set(CARDS)
    for card in cards:
        assert card["counted_on"] <= card["expected_score"] + 1e-9
    assert max(card["expected_score"] - card["counted_on"] for card in cards) > 0.01
    assert sum(card["chance_of_best"] for card in cards) == pytest.approx(1.0)


def test_a_request_of_foreign_words_is_said_to_be_one(checkpoint: Path) -> None:
    read = explained("zygote quasar blockchain", "--checkpoint", checkpoint)
    assert read["kind"]["known"] < 0.5
    assert read["kind"]["trusted"] < 1.0
    assert "quasar" in read["kind"]["unknown"]


@pytest.mark.parametrize("text", ["!!!", "a", "ab\udc80cd \ud83d", "你好吗", "x" * 100_000])
def test_any_text_is_explained(checkpoint: Path, text: str) -> None:
    found = CliRunner().invoke(app, ["explain", text, "--checkpoint", str(checkpoint)])
    assert found.exit_code == 0, found.output
    assert explained(text, "--checkpoint", checkpoint)["kind"]["trusted"] == 0.0


def test_the_page_says_what_the_json_says(checkpoint: Path) -> None:
    found = CliRunner().invoke(app, ["explain", CODE, "--checkpoint", str(checkpoint)])
    read = explained(CODE, "--checkpoint", checkpoint)
    assert found.exit_code == 0
    for said in (read["version"], read["kind"]["name"], "taken", "what would change it", *CARDS):
        assert said in found.stdout
    assert f"{read['cheaper']['cost_weight']:.3g}: small" in found.stdout


def test_a_pool_gives_todays_prices_and_the_cards_that_are_there(
    checkpoint: Path, tmp_path: Path
) -> None:
    file = tmp_path / "pool.yaml"
    card = "  - {{name: {0}, model: {0}, base_url: 'http://127.0.0.1:1/v1', context_window: {1}}}\n"
    rows = [card.format("small", 4), card.format("large", 9000), card.format("fresh", 9000)]
    file.write_text("models:\n" + "".join(rows))
    read = explained(CHAT, "--checkpoint", checkpoint, "--pool", file)
    assert {card["name"]: card["trained"] for card in read["cards"]} == {
        "large": True,
        "fresh": False,
    }
    assert "window" in read["removed"]["small"]


def test_nothing_to_explain_by_is_one_line_with_the_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = CliRunner().invoke(app, ["explain", CODE])
    assert found.exit_code == 2
    assert "no checkpoint in 'checkpoints/production'" in found.stderr
    assert CliRunner().invoke(app, ["explain", " "]).exit_code == 2


@pytest.fixture(scope="module")
def traced(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A store with one request that the checkpoint has routed."""
    store = tmp_path_factory.mktemp("traced") / "traces.db"

    async def ask() -> str:
        with Recorder(store) as recorder:
            pool = pool_of("small", "large")
            node = XRouterNode(pool, policy=str(checkpoint), traces=recorder, cost_weight=0.7)
            state = await apps.app(node).ainvoke({"messages": [HumanMessage(CHAT)]})
            return str(apps.record(state)["trace_id"])

    return store, asyncio.run(ask())


def test_a_recorded_request_is_explained_by_its_id(
    checkpoint: Path, traced: tuple[Path, str]
) -> None:
    store, trace = traced
    (past,) = explained(trace, "--store", store, "--checkpoint", checkpoint)["requests"]
    assert past["record"]["route"] == "small" and past["record"]["cost_usd"]
    assert past["same_checkpoint"] and past["reading"]["cost_weight"] == 0.7
    # Only what could have answered is read again, and it comes to what was counted on then.
    again = {card["name"]: card["counted_on"] for card in past["reading"]["cards"]}
    assert again == pytest.approx(past["expected_then"])
    shown = CliRunner().invoke(
        app, ["explain", trace, "--store", str(store), "--checkpoint", str(checkpoint)]
    )
    assert "By the checkpoint that decided" in shown.stdout and "counted on then" in shown.stdout


def test_without_a_checkpoint_its_record_is_told(
    traced: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store, trace = traced
    (past,) = explained(trace[:20], "--store", store)["requests"]
    assert past["reading"] is None and "--checkpoint" in past["unread"]
    assert set(past["expected_then"]) == {"small", "large"}


def test_a_pool_tells_what_the_same_tokens_would_have_cost_elsewhere(
    traced: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store, trace = traced
    price = "price: {input: 10, output: 30}"
    Path("pool.yaml").write_text(f"models: [{{name: large, model: 'openai:own', {price}}}]")
    (past,) = explained(trace, "--store", store, "--pool", "pool.yaml")["requests"]
    (usage,) = [charge["usage"] for charge in past["record"]["charges"]]
    usd = (10 * usage["input_tokens"] + 30 * usage["output_tokens"]) / 1e6
    assert past["at_price_usd"] == {"large": pytest.approx(usd)}
    shown = CliRunner().invoke(
        app, ["explain", trace, "--store", str(store), "--pool", "pool.yaml"]
    )
    assert f"large {usd:.6f}" in shown.stdout


def test_an_id_that_is_not_there_says_where_to_look(traced: tuple[Path, str]) -> None:
    found = CliRunner().invoke(app, ["explain", "0123456789", "--store", str(traced[0])])
    assert found.exit_code == 2 and "xrouter traces list" in found.stderr


def test_no_kind_of_word_is_read_out_of_the_checkpoint(checkpoint: Path) -> None:
    """What is shown beside the kind's name are words of the prompt itself."""
    read = explained(CODE, "--checkpoint", checkpoint)
    shown = {*read["kind"]["telling"], *read["kind"]["unknown"]}
    assert shown <= set(CODE.split())
    assert read["kind"]["name"] in read_manifest(checkpoint).family_head.families  # type: ignore[union-attr]


@pytest.mark.train
def test_plans_of_several_calls_are_not_explained_as_single_ones(tmp_path: Path) -> None:
    from tests.fitting.test_cascade import recorded, write_cascade
    from xrouter_lg.fitting.cascade import fit_answers
    from xrouter_lg.fitting.cascade_choice import read_recorded

    folder = tmp_path / "recorded"
    folder.mkdir()
    plans = write_cascade(tmp_path / "plans", fit_answers(*read_recorded(recorded(folder))))
    found = CliRunner().invoke(app, ["explain", CODE, "--checkpoint", str(plans)])
    assert found.exit_code == 2
    assert "is of kind 'cascade'" in found.stderr and "kind 'head'" in found.stderr


@pytest.mark.train
def test_a_language_model_is_read_in_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.support import tiny_checkpoint as tiny

    monkeypatch.setenv("XROUTER_BASE", str(tiny.write_base(tmp_path / "base")))
    folder = tiny.write(tmp_path / "checkpoint", tmp_path / "base")
    read = explained(CODE, "--checkpoint", folder, "--cost-weight", "0")
    assert read["kind"] is None
    assert [card["name"] for card in read["cards"]] != [] and read["taken"] in tiny.NAMES
    best = max(card["counted_on"] for card in read["cards"])
    assert read["cards"][0]["counted_on"] == best
