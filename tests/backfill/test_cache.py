"""The cache: answers for good, intents before calls, one process at a time."""

from __future__ import annotations

import dataclasses
import multiprocessing
import sqlite3
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage

from xrouter_lg.backfill import (
    AnswerCache,
    AnswerKey,
    BackfillError,
    Conversation,
    UnaskableError,
    conversation_of,
)
from xrouter_lg.backfill.answer import key_base
from xrouter_lg.pool.card import ModelCard
from xrouter_lg.said import answer_of
from xrouter_lg.testing import ScriptedChatModel
from xrouter_lg.types import Charge, TokenUsage

CARD = ModelCard(
    name="small", model="m", base_url="http://127.0.0.1:9/v1", price={"input": 1, "output": 2}
)
KEY = AnswerKey("base", 0, 100)


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[AnswerCache]:
    with AnswerCache(tmp_path / "c.db") as opened:
        yield opened


def charge(cost: str | None = "0.5", held: str | None = None, **fields: Any) -> Charge:
    values: dict[str, Any] = {
        "kind": "backfill",
        "card": "small",
        "model": "m",
        "attempt": 1,
        "usage": TokenUsage(10, 20),
        "cost_usd": None if cost is None else Decimal(cost),
        "price_source": "card",
        "latency_s": 0.25,
        "held_usd": None if held is None else Decimal(held),
    }
    return Charge(**{**values, **fields})


def answer(cache: AnswerCache, key: AnswerKey = KEY, text: str = "yes", cut: bool = False) -> None:
    intent = cache.begin(CARD, Decimal(1), kind="backfill", key=key)
    cache.answered(intent, key, AIMessage(text), [charge()], truncated=cut)


def test_an_answer_is_there_in_every_later_process(tmp_path: Path) -> None:
    with AnswerCache(tmp_path / "c.db") as cache:
        answer(cache)
    with AnswerCache(tmp_path / "c.db") as cache:
        found = cache.find(KEY)
        assert found is not None
        assert cache.response_of(found.id) == "yes"
        assert (found.input_tokens, found.output_tokens) == (10, 20)
        assert (found.cost_usd, found.latency_s, found.error) == (Decimal("0.5"), 0.25, None)
        assert len(cache) == 1


def test_a_second_answer_to_what_was_answered_is_refused(cache: AnswerCache) -> None:
    answer(cache)
    with pytest.raises(BackfillError, match="UNIQUE"):
        answer(cache)


def test_an_answer_that_ended_by_itself_fits_under_any_limit_it_fits_into(
    cache: AnswerCache,
) -> None:
    answer(cache)  # of 20 tokens, under a limit of 100
    assert cache.find(KEY._replace(max_tokens=50)) is not None
    assert cache.find(KEY._replace(max_tokens=5_000)) is not None
    assert cache.find(KEY._replace(max_tokens=19)) is None
    assert cache.find(KEY._replace(sample=1)) is None


def test_a_cut_answer_is_an_answer_to_its_own_limit_only(cache: AnswerCache) -> None:
    answer(cache, cut=True)
    assert cache.find(KEY) is not None
    assert cache.find(KEY._replace(max_tokens=5_000)) is None


def test_a_failure_for_good_gives_way_to_a_later_answer(cache: AnswerCache) -> None:
    intent = cache.begin(CARD, Decimal(1), kind="backfill", key=KEY)
    cache.failed(intent, KEY, [charge()], error="empty", detail="nothing came")
    found = cache.find(KEY)
    assert found is not None and found.error == "empty"
    assert len(cache) == 0
    answer(cache)
    found = cache.find(KEY)
    assert found is not None and found.error is None


def test_a_call_without_an_end_counts_with_its_worst_case(tmp_path: Path) -> None:
    path = tmp_path / "c.db"
    with AnswerCache(path) as cache:
        answer(cache)
        cache.begin(CARD, Decimal("0.75"), kind="backfill", key=KEY)
    with AnswerCache(path) as cache:  # the process died: nobody ended the call
        before = cache.spending()
        assert (before.known, before.counted) == (Decimal("0.5"), Decimal("1.25"))
        assert (before.lost, before.lost_usd) == (1, Decimal("0.75"))
        assert cache.close_lost() == 1
        assert cache.close_lost() == 0
        assert cache.spending() == before
        assert [c.error for c in cache.charges()] == [None, "lost"]


def test_a_charge_of_unknown_cost_counts_with_its_worst_case(cache: AnswerCache) -> None:
    for held in ("0.2", None):
        intent = cache.begin(CARD, Decimal("0.2"), kind="backfill", key=KEY)
        cache.end(intent, "failed", [charge(None, held, error="timeout")])
    spending = cache.spending()
    assert (spending.known, spending.counted, spending.unknown) == (0, Decimal("0.2"), 1)


def test_a_new_account_forgets_what_was_spent_but_no_answer(cache: AnswerCache) -> None:
    answer(cache)
    cache.open_account()
    assert cache.spending().counted == 0
    assert list(cache.account_charges()) == []
    assert len(list(cache.charges())) == 1
    assert cache.find(KEY) is not None


def _hold(path: str, ready: Any, done: Any) -> None:
    with AnswerCache(Path(path)):
        ready.set()
        done.wait(30)


def test_two_runs_on_one_cache_are_refused(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(str(tmp_path / "c.db"), ready, done))
    other.start()
    try:
        assert ready.wait(60)
        with pytest.raises(BackfillError, match=r"c\.db: another run is using this cache"):
            AnswerCache(tmp_path / "c.db")
    finally:
        done.set()
        other.join(30)
    AnswerCache(tmp_path / "c.db").close()


def test_what_is_no_cache_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "c.db"
    path.write_text("somebody's notes, which are much longer than a header of SQLite's is\n" * 9)
    before = path.read_text()
    with pytest.raises(BackfillError, match=r"c\.db can't be opened.*--cache"):
        AnswerCache(path)
    assert path.read_text() == before


def test_a_cache_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "c.db") as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(BackfillError, match="version 99, known is 1"):
        AnswerCache(tmp_path / "c.db")


def talk(**changes: Any) -> Conversation:
    return Conversation((SystemMessage("Be brief"), HumanMessage("Hello")), **changes)


@pytest.mark.parametrize(
    "other",
    [
        dataclasses.replace(CARD, model="n"),
        dataclasses.replace(CARD, base_url="http://127.0.0.1:10/v1"),
        dataclasses.replace(CARD, params={"temperature": 0}),
    ],
    ids=["model", "server", "params"],
)
def test_another_model_server_or_setting_is_another_question(other: ModelCard) -> None:
    assert key_base(talk(), other) != key_base(talk(), CARD)


@pytest.mark.parametrize(
    "same",
    [
        dataclasses.replace(CARD, name="renamed"),
        dataclasses.replace(CARD, description="short answers"),
        dataclasses.replace(CARD, price={"input": 9, "output": 9}),
        dataclasses.replace(CARD, timeout_s=5),
    ],
    ids=["name", "description", "price", "timeout"],
)
def test_what_a_card_is_called_or_costs_changes_no_answer(same: ModelCard) -> None:
    assert key_base(talk(), same) == key_base(talk(), CARD)


def test_tools_and_their_options_belong_to_the_question() -> None:
    tools = ({"type": "function", "function": {"name": "f", "parameters": {}}},)
    keys = {
        key_base(talk(), CARD),
        key_base(talk(tools=tools), CARD),
        key_base(talk(tools=tools, tool_options={"tool_choice": "any"}), CARD),
    }
    assert len(keys) == 3


def test_a_model_that_was_handed_in_is_told_apart_by_its_settings() -> None:
    cards = [
        ModelCard(name="s", model=ScriptedChatModel(["x"], model_name=name)) for name in ("a", "b")
    ]
    assert key_base(talk(), cards[0]) != key_base(talk(), cards[1])


CALL = {"name": "look", "args": {"at": 1}, "id": "c1", "type": "tool_call"}
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {}}}]


def test_every_recorded_form_of_a_conversation_is_the_same_conversation() -> None:
    messages = [
        SystemMessage("Be brief"),
        HumanMessage("Look"),
        AIMessage("", tool_calls=[CALL]),
        ToolMessage("a cat", tool_call_id="c1"),
    ]
    roles = [
        {"role": "system", "content": "Be brief"},
        {"role": "user", "content": "Look"},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": "a cat", "tool_call_id": "c1"},
    ]
    forms = [
        messages,
        roles,
        [message.model_dump() for message in messages],
        [{"type": m.type, "data": m.model_dump()} for m in messages],
        [
            {
                "lc": 1,
                "type": "constructor",
                "id": ["x", type(m).__name__],
                "kwargs": m.model_dump(),
            }
            for m in messages
        ],
    ]
    read = [conversation_of("Look", {"messages": form, "tools": TOOLS}) for form in forms]
    assert len({one.digest for one in read}) == 1
    assert [message.type for message in read[1].messages] == ["system", "human", "ai", "tool"]
    assert read[1].messages[2].tool_calls[0]["args"] == {"at": 1}  # type: ignore[attr-defined]


def test_a_lone_question_is_the_conversation_of_its_text() -> None:
    alone = conversation_of("Hello", {})
    assert alone.digest == conversation_of("", {"messages": [HumanMessage("Hello")]}).digest


@pytest.mark.parametrize(
    ("meta", "said"),
    [
        ({"messages": "Hello"}, "no list"),
        ({"messages": [{"content": "x"}]}, "can't be read"),
        ({"messages": [{"role": "assistant", "content": "", "tool_calls": [CALL]}]}, "meta.tools"),
        ({"tools": "look"}, "meta.tools is no list"),
        ({"tools": TOOLS, "tool_options": 3}, "meta.tool_options"),
    ],
)
def test_a_conversation_that_cant_be_asked_as_it_was_is_not_asked(
    meta: dict[str, Any], said: str
) -> None:
    with pytest.raises(UnaskableError, match=said):
        conversation_of("x", meta)


def test_an_answer_of_tool_calls_is_judged_as_json() -> None:
    assert answer_of(AIMessage("", tool_calls=[CALL])) == '[{"name": "look", "args": {"at": 1}}]'
    assert answer_of(AIMessage("text", tool_calls=[CALL])) == "text"
