"""With what probability a card was called, as the table tells it of real requests."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool

from tests.episodes.made import call, episode
from tests.episodes.test_to_table import outcomes_of, rows
from tests.support.apps import Says, app, ask, calls, options, pool, prefers
from xrouter_lg import Action, Proposal, Recorder, TraceStore, XRouterNode
from xrouter_lg.episodes.build_report import BuildReport
from xrouter_lg.episodes.episode import Episode
from xrouter_lg.episodes.extract import episodes
from xrouter_lg.episodes.propensity import (
    CONTRADICTS,
    INSTEAD,
    SEVERAL_CALLS,
    SEVERAL_TURNS,
    UNROUTED,
    UNTOLD,
    logged_propensity,
)
from xrouter_lg.testing import FakeOpenAIServer, FaultPlan, server_error


class Log:
    """A store of requests that a real graph has routed."""

    def __init__(self, path: Path, fake: FakeOpenAIServer) -> None:
        self.path, self.fake = path, fake

    def run(
        self,
        requests: int = 1,
        *,
        input: Any = None,
        configured: Any = None,
        tools: Sequence[Any] = (),
        **node: Any,
    ) -> list[Episode]:
        with Recorder(self.path, project="p") as recorder:
            made = XRouterNode(pool(self.fake), traces=recorder, **node)
            graph = app(made.bind_tools(tools) if tools else made)
            for number in range(requests):
                graph.invoke(input or ask(f"question {number}"), configured)
        return self.episodes()

    def episodes(self) -> list[Episode]:
        with TraceStore(self.path) as store:
            return [e for t in store.iter_traces() for e in episodes(t.runs, t.feedback)]

    def one(self, **how: Any) -> Episode:
        (found,) = self.run(**how)
        return found


@pytest.fixture
def log(tmp_path: Path, fake: FakeOpenAIServer) -> Log:
    return Log(tmp_path / "t.db", fake)


def propensities(found: list[Episode], report: BuildReport | None = None) -> dict[str, set[Any]]:
    """Those of each card in the table."""
    by_card: dict[str, set[Any]] = {}
    for row in rows(outcomes_of(found, report=report)):
        known = None if row["propensity"] is None else round(row["propensity"], 9)
        by_card.setdefault(row["model"], set()).add(known)
    return by_card


# --- what is known -----------------------------------------------------------------------------


def test_a_card_that_a_policy_drew_has_the_probability_of_the_draw(log: Log) -> None:
    report = BuildReport()
    found = log.run(40, policy="mix:small=0.6,large=0.4")
    assert propensities(found, report) == {"small": {0.6}, "large": {0.4}}
    assert (report.known_propensity, report.drawn, report.warnings) == (40, 40, [])


def test_a_card_that_the_router_drew_has_its_whole_probability(log: Log) -> None:
    # Half of a draw goes by the policy, half is even: large has 0.9 * (0.5 * 0 + 0.5 / 2).
    found = log.run(60, policy="fixed:small", exploration=0.9)
    assert propensities(found) == {"small": {0.775}, "large": {0.225}}


def test_a_log_that_never_explored_makes_a_sound_table_and_says_what_it_lacks(log: Log) -> None:
    report = BuildReport()
    found = log.run(3, policy="fixed:small")
    table = outcomes_of(found, report=report)
    assert table.validate().ok
    assert propensities(found) == {"small": {1.0}}
    assert (report.known_propensity, report.drawn) == (3, 0)
    assert any("nothing was drawn" in line for line in report.warnings)


@tool
def look_up(city: str) -> str:
    """Look it up."""
    return city


def in_a_loop() -> dict[str, Any]:
    asked = AIMessage(
        "",
        tool_calls=[{"name": "look_up", "args": {"city": "Rome"}, "id": "1"}],
        response_metadata={"xrouter": {"route": "large"}},
    )
    return {"messages": [HumanMessage("Why?"), asked, ToolMessage("42", tool_call_id="1")]}


def failing(request: Any, candidates: Any) -> Proposal:
    raise RuntimeError("boom")


@pytest.mark.parametrize(
    "how",
    [
        {"policy": "fixed:small", "input": in_a_loop(), "tools": [look_up]},
        {"policy": "fixed:small", "configured": options(allow=["large"])},
        {"policy": Says(failing)},
    ],
    ids=["the same model in a tool loop", "the only candidate", "the policy failed"],
)
def test_a_choice_without_alternative_is_certain_however_much_is_explored(
    log: Log, how: dict[str, Any]
) -> None:
    found = log.one(exploration=1.0, **how)
    assert logged_propensity(found) == (1.0, "")


# --- what is not -------------------------------------------------------------------------------


def test_a_policy_that_does_not_tell_leaves_it_unknown(log: Log) -> None:
    report = BuildReport()
    assert propensities([log.one(policy=calls("small"))], report) == {"small": {None}}
    assert dict(report.unknown_propensity) == {UNTOLD: 1}


def test_several_calls_at_once_leave_it_unknown(log: Log) -> None:
    found = log.one(policy=calls("small", "large"))
    assert logged_propensity(found) == (None, SEVERAL_CALLS)


def test_a_card_that_stood_in_for_one_that_failed_was_not_drawn(
    log: Log, fake: FakeOpenAIServer
) -> None:
    fake.faults = FaultPlan({"small": server_error()})
    found = log.one(policy="fixed:small")
    assert found.route == "large"
    assert logged_propensity(found) == (None, SEVERAL_CALLS)


def test_several_turns_leave_it_unknown(log: Log) -> None:
    def propose(request: Any, candidates: Any) -> Proposal:
        names = {c.name: 0.5 for c in candidates}
        if request.turn == 1:
            return Proposal(names, (Action("call", card="small"),), 0.5)
        return Proposal(names, (Action("select", call_id="c1"),), 1.0)

    found = log.one(policy=Says(propose, orchestrates=True), max_turns=2)
    assert found.propensity == 0.5
    assert logged_propensity(found) == (None, SEVERAL_TURNS)


def test_a_request_that_was_not_routed_has_none() -> None:
    report = BuildReport()
    assert propensities([episode(call("small", "x"), routed=False)], report) == {"small": {None}}
    assert dict(report.unknown_propensity) == {UNROUTED: 1}


@pytest.fixture
def drawn(log: Log) -> Episode:
    """A request that was decided by a draw of 0.75 for small against 0.25 for large."""
    return next(e for e in log.run(12, policy="mix:small=0.75,large=0.25") if e.route == "small")


def changed(found: Episode, **decision: Any) -> Episode:
    """It with another decision, as a record has it that does not say what was drawn from."""
    old = {name: value for name, value in found.decisions[0].items() if name != "explore"}
    return dataclasses.replace(found, decisions=({**old, **decision},))


def test_a_card_that_the_budget_put_in_the_place_of_the_draw_was_not_drawn(drawn: Episode) -> None:
    reason = "drawn; next in order: too dear"
    assert logged_propensity(changed(drawn, reason=reason)) == (None, INSTEAD)
    # The budget leaves no choice: what was certain is.
    assert logged_propensity(changed(drawn, reason=reason, propensity=1.0)) == (1.0, "")


def test_a_call_to_another_card_than_was_decided_was_not_drawn(drawn: Episode) -> None:
    assert logged_propensity(changed(drawn, calls=[{"card": "medium"}])) == (None, INSTEAD)


# --- what contradicts the log ------------------------------------------------------------------

LARGE = {"small": 0.1, "large": 0.9}


@pytest.mark.parametrize(
    ("decision", "scores"),
    [
        ({"propensity": 0.0}, None),
        ({"propensity": -0.2}, None),
        ({"propensity": 1.5}, None),
        ({"propensity": float("nan")}, None),
        ({"propensity": "0.75"}, None),
        # Nothing was drawn, and the scores say 0.75.
        ({"propensity": 0.5, "explore": None}, None),
        # It was drawn with another probability, or is no card that could be drawn.
        ({"propensity": 0.9, "explore": {"small": 0.8, "large": 0.2}}, None),
        ({"propensity": 0.75, "explore": {"large": 1.0}}, None),
        # Against the favourite, and yet not drawn.
        ({"propensity": 0.9, "explore": None}, LARGE),
        ({"propensity": 1.0}, LARGE),
        # A draw that could not have gone otherwise, or that was none.
        ({"propensity": 1.0, "explored": True}, LARGE),
        ({"propensity": 0.1, "explored": True, "explore": None}, LARGE),
    ],
)
def test_a_propensity_that_contradicts_the_log_is_null_and_counted(
    drawn: Episode, decision: dict[str, Any], scores: dict[str, float] | None
) -> None:
    report = BuildReport()
    wrong = dataclasses.replace(changed(drawn, **decision), scores=scores or drawn.scores)
    (row,) = rows(outcomes_of([wrong], report=report))
    assert row["propensity"] is None
    assert report.unknown_propensity == {CONTRADICTS: 1}
    assert any("1 answers bear a propensity that contradicts" in line for line in report.warnings)


@pytest.mark.parametrize(
    ("decision", "scores"),
    [
        ({"propensity": 0.9, "explore": {"small": 0.9, "large": 0.1}}, None),
        ({"propensity": 0.1, "explored": True, "explore": {"large": 0.9, "small": 0.1}}, LARGE),
        # The dearer favourite could not be paid, so it had no part in the draw.
        ({"propensity": 0.6, "explore": {"small": 0.6}, "reason": "next in order: dear"}, LARGE),
        ({"propensity": 1.0, "explore": None}, None),
        # A record that does not say what was drawn from can't be held to it.
        ({"propensity": 0.5}, None),
        ({"propensity": 0.1, "explored": True}, LARGE),
        # Scores that are no distribution are drawn from by their shares.
        ({"propensity": 0.25, "explore": None}, {"small": 1.0, "large": 3.0}),
        ({"propensity": 1.0 + 1e-9}, None),
    ],
)
def test_a_propensity_that_fits_the_log_is_kept(
    drawn: Episode, decision: dict[str, Any], scores: dict[str, float] | None
) -> None:
    right = dataclasses.replace(changed(drawn, **decision), scores=scores or drawn.scores)
    assert logged_propensity(right) == (min(decision["propensity"], 1.0), "")


# --- the same prompt again ---------------------------------------------------------------------


def test_the_same_prompt_again_has_the_mean(log: Log) -> None:
    log.run(1, policy="mix:small=1")
    half = Proposal({"small": 0.5, "large": 0.5}, (Action("call", card="small"),), 0.5)
    found = log.run(1, policy=Says(lambda request, candidates: half))
    assert [e.route for e in found] == ["small", "small"]
    assert propensities(found) == {"small": {0.75}}


def test_one_unknown_propensity_makes_the_mean_unknown(log: Log) -> None:
    log.run(1, policy="fixed:small")
    assert propensities(log.run(1, policy=calls("small"))) == {"small": {None}}


def test_cards_that_were_asked_the_same_have_their_own(log: Log) -> None:
    log.run(1, policy="fixed:small")
    found = log.run(1, policy=prefers("large"), exploration=0.0)
    assert propensities(found) == {"small": {1.0}, "large": {1.0}}
