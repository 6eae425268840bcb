"""The error tree: bases, messages, and the way through pickle."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from xrouter_lg import errors
from xrouter_lg.errors import (
    AllCandidatesFailedError,
    ErrorClass,
    MissingExtraError,
    NoCandidateError,
    StreamInterruptedError,
    WorkerError,
    XRouterError,
)

STANDARD_BASE = {
    "ConfigurationError": ValueError,
    "PoolError": ValueError,
    "MissingKeyError": ValueError,
    "PolicyConfigError": ValueError,
    "RequestError": ValueError,
    "EmptyMessagesError": ValueError,
    "NoHumanMessageError": ValueError,
    "RequestOptionError": ValueError,
    "NoCandidateError": ValueError,
    "BudgetExceededError": RuntimeError,
    "PolicyError": RuntimeError,
    "PolicyTimeoutError": RuntimeError,
    "InvalidProposalError": RuntimeError,
    "WorkerError": RuntimeError,
    "AllCandidatesFailedError": RuntimeError,
    "StreamInterruptedError": RuntimeError,
    "StoreError": RuntimeError,
    "MissingExtraError": ImportError,
}

WITH_ATTRIBUTES: list[tuple[XRouterError, dict[str, Any]]] = [
    (NoCandidateError({"a": "denied"}), {"removed": {"a": "denied"}}),
    (
        WorkerError("a", ErrorClass.TIMEOUT, "60 s"),
        {"card": "a", "error_class": ErrorClass.TIMEOUT, "detail": "60 s"},
    ),
    (
        StreamInterruptedError("a", ErrorClass.STREAM_CUT, "cut"),
        {"card": "a", "error_class": ErrorClass.STREAM_CUT, "detail": "cut"},
    ),
    (
        AllCandidatesFailedError([{"card": "a", "error": "server", "cost_usd": None}]),
        {"attempts": [{"card": "a", "error": "server", "cost_usd": None}]},
    ),
    (
        MissingExtraError("typer", "cli", "the xrouter command"),
        {"package": "typer", "extra": "cli", "purpose": "the xrouter command"},
    ),
]


def test_the_table_of_bases_names_every_error_of_the_module() -> None:
    defined = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, XRouterError) and value is not XRouterError
    }
    assert defined == set(STANDARD_BASE)


@pytest.mark.parametrize("name", STANDARD_BASE)
def test_each_error_can_be_caught_as_its_standard_class(name: str) -> None:
    kind = getattr(errors, name)
    assert issubclass(kind, XRouterError)
    assert issubclass(kind, STANDARD_BASE[name])


@pytest.mark.parametrize("name", STANDARD_BASE)
def test_the_module_docstring_draws_every_error(name: str) -> None:
    assert name in (errors.__doc__ or "")


@pytest.mark.parametrize(("error", "attributes"), WITH_ATTRIBUTES, ids=lambda it: type(it).__name__)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_an_error_keeps_its_attributes_and_text_through_pickle(
    error: XRouterError, attributes: dict[str, Any], protocol: int
) -> None:
    copy = pickle.loads(pickle.dumps(error, protocol))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert {name: getattr(copy, name) for name in attributes} == attributes


@pytest.mark.parametrize(
    "name", sorted(set(STANDARD_BASE) - {type(error).__name__ for error, _ in WITH_ATTRIBUTES})
)
def test_a_plain_error_keeps_its_text_through_pickle(name: str) -> None:
    copy = pickle.loads(pickle.dumps(getattr(errors, name)("what, where, fix")))
    assert type(copy).__name__ == name
    assert str(copy) == "what, where, fix"


def test_no_candidate_names_the_rule_beside_each_card() -> None:
    text = str(NoCandidateError({"small": "in the deny list", "large": "context too long"}))
    assert "'small': in the deny list" in text
    assert "'large': context too long" in text


def test_a_failed_attempt_of_unknown_cost_is_not_shown_as_free() -> None:
    text = str(AllCandidatesFailedError([{"card": "a", "error": "timeout", "cost_usd": None}]))
    assert "cost unknown" in text
    assert "$0" not in text


def test_a_known_cost_is_shown_in_usd_with_the_detail() -> None:
    attempt = {"card": "a", "error": "server", "cost_usd": "0.002", "detail": "503"}
    assert "'a' server (cost $0.002): 503" in str(AllCandidatesFailedError([attempt]))


def test_all_failed_without_an_attempt_says_so() -> None:
    assert "none could be tried" in str(AllCandidatesFailedError([]))


def test_an_attempt_given_is_copied_not_shared() -> None:
    attempt = {"card": "a"}
    error = AllCandidatesFailedError([attempt])
    attempt["card"] = "b"
    assert error.attempts == [{"card": "a"}]


def test_a_missing_extra_names_the_pip_command() -> None:
    assert 'pip install "xrouter_lg[cli]"' in str(MissingExtraError("typer", "cli", "the command"))
