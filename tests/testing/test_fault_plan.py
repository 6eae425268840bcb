"""A plan decides which call meets which fault, and reads the same from text."""

from __future__ import annotations

import pytest

from xrouter_lg.testing import (
    Call,
    FaultPlan,
    always,
    first,
    on_call,
    rate_limit,
    reset,
    server_error,
    sometimes,
)


def kinds(plan: FaultPlan, model: str = "small", calls: int = 4) -> list[str | None]:
    faults = [plan.fault_for(Call(model, number)) for number in range(calls)]
    return [None if fault is None else fault.kind for fault in faults]


def test_an_empty_plan_has_no_faults() -> None:
    assert kinds(FaultPlan()) == [None] * 4


def test_a_single_fault_hits_every_call() -> None:
    assert kinds(FaultPlan({"small": reset()})) == ["reset"] * 4


def test_always_hits_every_call() -> None:
    assert kinds(FaultPlan({"small": always(reset())})) == ["reset"] * 4


def test_a_sequence_goes_call_by_call_and_then_ends() -> None:
    plan = FaultPlan({"small": [rate_limit(0.1), server_error(500), None]})
    assert kinds(plan) == ["rate_limit", "server_error_500", None, None]


def test_first_hits_the_first_calls() -> None:
    assert kinds(FaultPlan({"small": first(2, reset())})) == ["reset", "reset", None, None]


def test_on_call_hits_one_call() -> None:
    assert kinds(FaultPlan({"small": on_call(2, reset())})) == [None, None, "reset", None]


def test_a_function_decides_by_the_request() -> None:
    plan = FaultPlan(default=lambda call: reset() if call.body.get("stream") else None)
    assert plan.fault_for(Call("small", 0, {"stream": True})) == reset()


def test_the_default_covers_models_without_a_rule() -> None:
    plan = FaultPlan({"small": None}, default=reset())
    assert (kinds(plan, "small", 1), kinds(plan, "large", 1)) == ([None], ["reset"])


def test_a_probability_is_met_in_the_long_run() -> None:
    hits = kinds(FaultPlan(default=reset(), probability=0.2, seed=3), calls=2000)
    assert 340 < hits.count("reset") < 460


def test_a_seed_repeats_its_draws() -> None:
    plans = [FaultPlan(default=reset(), probability=0.5, seed=3) for _ in range(2)]
    assert kinds(plans[0], calls=50) == kinds(plans[1], calls=50)


def test_another_seed_draws_differently() -> None:
    plans = [FaultPlan(default=reset(), probability=0.5, seed=seed) for seed in (3, 4)]
    assert kinds(plans[0], calls=50) != kinds(plans[1], calls=50)


def test_a_probability_above_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"probability=1\.5"):
        sometimes(1.5, reset())


def test_text_as_a_rule_points_to_parse() -> None:
    with pytest.raises(TypeError, match=r"FaultPlan\.parse"):
        FaultPlan({"small": "reset"})  # type: ignore[dict-item]


def test_something_else_in_a_sequence_is_refused() -> None:
    with pytest.raises(TypeError, match="429"):
        FaultPlan({"small": [429]})  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("small:429,500,ok", ["rate_limit", "server_error_500", None, None]),
        ("small:reset*2", ["reset", "reset", None, None]),
        ("small:reset*", ["reset"] * 4),
        ("*:529*", ["server_error_529"] * 4),
        ("small:empty;*:reset*", ["empty", None, None, None]),
        ("small:hang=0.5,cut=3,slow", ["hang", "cut_stream", "slow_stream", None]),
        ("small:html=502,wrong_model=x,error", ["html_page", "wrong_model", "stream_error", None]),
        ("small:reset@1", ["reset"] * 4),
        ("", [None] * 4),
    ],
)
def test_a_plan_reads_from_text(spec: str, expected: list[str | None]) -> None:
    assert kinds(FaultPlan.parse(spec)) == expected


def test_an_argument_in_text_reaches_the_fault() -> None:
    assert FaultPlan.parse("small:429=0.1").fault_for(Call("small", 0)) == rate_limit(0.1)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("429", "names no model"),
        ("small:flood", "'flood' is not a fault; known are"),
        ("small:hang=soon", "'soon' in 'hang=soon' is not a number"),
        ("small:reset*x", "'x' in .* is not a number"),
        ("small:reset=3", "is not a fault"),
    ],
)
def test_a_mistake_in_text_is_explained(spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FaultPlan.parse(spec)
