"""What goes wrong is said with the value, the place and the fix; a key is never said."""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Iterator

import pytest

from tests.langsmith.conftest import (
    KEY,
    PROJECT,
    add_trace,
    days_ago,
    pulled,
    stored,
)
from tests.support.langsmith_server import LangSmithServer, forget_variables
from xrouter_lg.errors import MissingKeyError, XRouterError
from xrouter_lg.langsmith.connection import LangSmith
from xrouter_lg.langsmith.errors import (
    AccessDeniedError,
    FeedbackNotSentError,
    HiddenInputsError,
    LangSmithIntegrationError,
    LangSmithRefusedError,
    NoKeyError,
    ProjectNotFoundError,
    RetentionError,
    UnreachableError,
)
from xrouter_lg.langsmith.polite import Patience
from xrouter_lg.tracing.store.trace_store import TraceStore


@pytest.fixture(autouse=True)
def _forget_environment() -> Iterator[None]:
    """The client reads each variable once."""
    forget_variables()
    yield
    forget_variables()


def test_without_a_key_the_hosted_service_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LANGSMITH_API_KEY", "LANGCHAIN_API_KEY", "LANGSMITH_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(NoKeyError, match="LANGSMITH_API_KEY is not set") as caught:
        LangSmith(endpoint="https://api.smith.langchain.com")
    assert isinstance(caught.value, MissingKeyError)


@pytest.mark.parametrize("v2", [True, False])
@pytest.mark.parametrize(("status", "said"), [(401, "LANGSMITH_API_KEY"), (403, "permission")])
def test_no_permission_says_what_to_check(
    store: TraceStore, monkeypatch: pytest.MonkeyPatch, v2: bool, status: int, said: str
) -> None:
    monkeypatch.setenv("LANGSMITH_API_KEY", KEY)
    with LangSmithServer(v2=v2) as server:
        add_trace(server, 1, days_ago(1))
        with LangSmith(endpoint=server.url) as langsmith:
            server.fail_next(status, 5, path=".*/runs/query")
            if not v2:
                server.fail_next(404, path="/api/v2.*")
            with pytest.raises(AccessDeniedError, match=said) as caught:
                pulled(langsmith, store)
        assert f"HTTP {status}" in str(caught.value)
        assert server.url in str(caught.value)


def test_a_wrong_key_is_found_at_the_first_request_and_never_repeated(
    store: TraceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LANGSMITH_API_KEY", "lsv2_pt_wrong_0123456789abcdefghijkl")
    with LangSmithServer(key=KEY) as server, LangSmith(endpoint=server.url) as langsmith:
        with pytest.raises(AccessDeniedError) as caught:
            pulled(langsmith, store)
        assert len(server.paths("GET")) == 1
    told = "".join(traceback.format_exception(caught.value))
    assert "lsv2" not in told and "0123456789" not in told


def test_an_unknown_project_names_those_that_come_near(
    server: LangSmithServer, langsmith: LangSmith, store: TraceStore
) -> None:
    server.session("checkout-agent")
    with pytest.raises(ProjectNotFoundError, match=r"'suport-bot'.*'support-bot'") as caught:
        pulled(langsmith, store, project="suport-bot")
    assert "checkout" not in str(caught.value)
    assert isinstance(caught.value, LookupError)
    with pytest.raises(ProjectNotFoundError, match=r"There are .*'checkout-agent'"):
        pulled(langsmith, store, project="zzz")


def test_an_unknown_project_id_is_no_server_error(
    server: LangSmithServer, langsmith: LangSmith, store: TraceStore
) -> None:
    with pytest.raises(ProjectNotFoundError):
        pulled(langsmith, store, project="00000000-0000-4000-8000-000000000000")


def test_hidden_inputs_are_nothing_to_train_on(
    server: LangSmithServer, langsmith: LangSmith, store: TraceStore
) -> None:
    for number in range(3):
        add_trace(server, number, days_ago(1), hidden=True)
    with pytest.raises(HiddenInputsError, match=r"all 3 traces.*LANGSMITH_HIDE_INPUTS"):
        pulled(langsmith, store)
    assert len(stored(store)) == 3  # costs and tokens are there all the same


def test_some_hidden_traces_are_a_note(
    server: LangSmithServer, langsmith: LangSmith, store: TraceStore
) -> None:
    add_trace(server, 1, days_ago(1), hidden=True)
    add_trace(server, 2, days_ago(1))
    assert "1 of 2 traces came without inputs" in pulled(langsmith, store).notes[0]


def test_asking_beyond_the_retention_says_so(
    server: LangSmithServer, langsmith: LangSmith, store: TraceStore
) -> None:
    add_trace(server, 1, days_ago(20))
    server.forget(days_ago(14))
    with pytest.raises(RetentionError, match=r"after 14 days.*30.*bulk export"):
        pulled(langsmith, store, days=30)


def test_a_partly_deleted_window_is_a_note(
    server: LangSmithServer, langsmith: LangSmith, store: TraceStore
) -> None:
    add_trace(server, 1, days_ago(20))
    add_trace(server, 2, days_ago(3))
    server.forget(days_ago(14))
    assert "deleted after 14 days" in pulled(langsmith, store, days=30).notes[0]


def test_an_empty_week_is_no_error(langsmith: LangSmith, store: TraceStore) -> None:
    assert pulled(langsmith, store, days=7).traces == 0


def test_a_server_that_is_down_is_said_with_its_address(
    store: TraceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LANGSMITH_API_KEY", KEY)
    with LangSmithServer() as gone:
        url = gone.url
    slept: list[float] = []
    with (
        LangSmith(endpoint=url, patience=Patience(sleep=slept.append)) as langsmith,
        pytest.raises(UnreachableError, match="refused") as caught,
    ):
        pulled(langsmith, store)
    assert url in str(caught.value) and "run it again" in str(caught.value)
    assert len(slept) == 2  # a wrong address is told soon
    assert KEY[:8] not in "".join(traceback.format_exception(caught.value))


def test_a_server_that_goes_down_meanwhile_is_waited_for(
    server: LangSmithServer, langsmith: LangSmith, store: TraceStore, waits: list[float]
) -> None:
    add_trace(server, 1, days_ago(1))
    server.fail_next(0, 3, path="/api/v2/runs/query")
    server.fail_next(503, 2, path="/api/v2/runs/query")
    assert pulled(langsmith, store).traces == 1
    assert len(waits) == 5


def test_a_request_that_is_refused_quotes_the_server(
    server: LangSmithServer, langsmith: LangSmith, store: TraceStore
) -> None:
    server.fail_next(400, path="/api/v2/runs/query")
    with pytest.raises(LangSmithRefusedError, match=r"HTTP 400.*refused with 400") as caught:
        pulled(langsmith, store)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    "error",
    [
        NoKeyError("a"),
        LangSmithRefusedError("b", 400),
        FeedbackNotSentError("c", "id"),
        RetentionError("d"),
    ],
)
def test_errors_pickle_and_are_the_packages_own(error: LangSmithIntegrationError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))
    assert isinstance(error, XRouterError)


def test_a_project_may_hold_nothing_yet(langsmith: LangSmith) -> None:
    assert langsmith.project(PROJECT).name == PROJECT
