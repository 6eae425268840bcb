"""What a graph's state keeps of a turn."""

from __future__ import annotations

import dataclasses
import json
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage

from xrouter_lg.graph.turn import Turn, TurnContext, anchor_of
from xrouter_lg.types import CallId, Charge, Decision, PlannedCall, TokenUsage

CHARGE = Charge("worker", "a", "m", 1, TokenUsage(3, 4), Decimal("0.0000001"), "card", 0.5)
DECISION = Decision(
    turn=2,
    calls=(PlannedCall("c2_1", "a", "brief", 0.3, 9, Decimal("0.00000010")),),
    order=("a", "b"),
    reason="because",
    policy="p",
    policy_version="1",
    scores={"a": 0.75, "b": 0.25},
    propensity=0.5,
    removed={"c": "denied"},
    charges=(CHARGE,),
    notes={"arm": {"arm": "main"}},
)
CONTEXT = TurnContext("f00", 0.3, 1.5, "thread", None, Decimal("0.01"), (1, None, "ab"), "run")
TURN = Turn(DECISION, CONTEXT)


def test_a_turn_comes_back_through_json() -> None:
    assert Turn.from_dict(json.loads(json.dumps(TURN.to_dict()))) == TURN


def test_a_routers_own_message_stays_an_object() -> None:
    said = dataclasses.replace(TURN, decision=dataclasses.replace(DECISION, message=AIMessage("x")))
    assert Turn.from_dict(said.to_dict()) == said


def test_no_field_of_the_context_hides_one_of_the_decision() -> None:
    fields = [f.name for kind in (Decision, TurnContext) for f in dataclasses.fields(kind)]
    assert sorted(TURN.to_dict()) == sorted(fields)


def test_a_state_of_an_older_version_is_read() -> None:
    data = TURN.to_dict()
    for later in ("notes", "quality", "request_id"):
        del data[later]
    assert Turn.from_dict({**data, "gone": 1}).decision.calls == DECISION.calls


def test_the_same_question_under_the_same_id_has_the_same_anchor() -> None:
    assert anchor_of([HumanMessage("a", id="1")]) == anchor_of([HumanMessage("a", id="1")])


def test_another_question_under_the_same_id_is_another_request() -> None:
    assert anchor_of([HumanMessage("a", id="1")]) != anchor_of([HumanMessage("b", id="1")])


@given(st.builds(CallId, st.integers(1, 99), st.integers(1, 99), st.integers(0, 99)))
def test_a_call_id_is_what_its_text_says(call_id: CallId) -> None:
    assert CallId.parse(str(call_id)) == call_id


def test_call_ids_read_as_they_always_have() -> None:
    ids = [CallId(1, 2), CallId(2, 1), CallId(1, 1, 1), CallId(2, 3, 4)]
    assert [str(i) for i in ids] == ["c2", "c2_1", "c1.1", "c2_3.4"]
