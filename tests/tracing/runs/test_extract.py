"""From runs to route records, whatever form the runs are in."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from langchain_core.load import dumpd
from langchain_core.messages import AIMessage
from langgraph.types import Command

from tests.tracing.routed import a_record
from xrouter_lg.tracing import annotate, route_records, run_ids

ANSWER = AIMessage("fine", response_metadata={"xrouter": a_record().to_dict()})
UPDATE = {"messages": [ANSWER]}
FORMS: dict[str, Any] = {
    "live dict": UPDATE,
    "live command": Command(update=UPDATE),
    "wrapped command": {"output": Command(update=UPDATE, goto="x")},
    "stored dict": {"messages": [ANSWER.model_dump()]},
    "stored command": {"output": {"graph": None, "update": {"messages": [ANSWER.model_dump()]}}},
    "constructor form": {"messages": [dumpd(ANSWER)]},
    "list of commands": {"output": [Command(update={}), Command(update=UPDATE)]},
    "another key": {"answer": ANSWER},
}


def a_run(outputs: Any, run_id: str = "c", parent: str | None = "r", **metadata: Any) -> Any:
    return {
        "id": run_id,
        "parent_run_id": parent,
        "trace_id": "t",
        "extra": {"metadata": {"xrouter_role": "collect", **metadata}},
        "outputs": outputs,
    }


@pytest.mark.parametrize("form", list(FORMS))
def test_a_record_is_found_in_each_form_of_outputs(form: str) -> None:
    [found] = route_records([a_run(FORMS[form])])
    assert found == ("c", "r", "t", a_record())


def test_runs_may_be_objects() -> None:
    [found] = route_records([SimpleNamespace(**a_run(UPDATE))])
    assert found.record.route == "small"


def test_a_run_with_another_role_holds_no_record() -> None:
    assert route_records([a_run(UPDATE, xrouter_role="call")]) == []


def test_a_run_below_the_collecting_one_is_passed_over() -> None:
    runs = [a_run(UPDATE), a_run(UPDATE, run_id="below", parent="c")]
    assert [found.collect_run_id for found in route_records(runs)] == ["c"]


@pytest.mark.parametrize("outputs", [None, {}, {"messages": []}, {"messages": "text"}, "text", 5])
def test_outputs_without_a_record_give_none(outputs: Any) -> None:
    assert route_records([a_run(outputs)]) == []


def test_a_record_that_can_not_be_read_is_logged_and_left_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    broken = AIMessage("x", response_metadata={"xrouter": {"route": "small"}})
    assert route_records([a_run({"messages": [broken]})]) == []
    assert "record of run c can't be read" in caplog.text


BRIEF = {"messages": [AIMessage("fine", response_metadata={"xrouter": {"route": "small"}})]}


def test_the_whole_record_is_in_the_run_s_metadata_and_the_message_holds_a_part() -> None:
    run = a_run(BRIEF, xrouter_record=a_record().to_dict())
    assert route_records([run]) == [("c", "r", "t", a_record())]


def test_a_step_that_failed_after_all_has_answered_nothing() -> None:
    run = {**a_run(None, xrouter_record=a_record().to_dict()), "error": "CancelledError()"}
    assert route_records([run]) == []


def test_outside_a_run_there_are_no_ids_and_nothing_to_annotate() -> None:
    annotate({}, {"a": 1})
    assert run_ids({}) == (None, None, None)
    assert run_ids({"callbacks": []}) == (None, None, None)
