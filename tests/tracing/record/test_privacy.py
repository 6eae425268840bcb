"""Planted secrets and personal data, followed to everywhere they might end up.

A real graph with real clients over HTTP; the recorder and the real LangSmith client trace it at
once. Looked through: the store's files, packed pieces included, every log record, the route record
that the app gets, the bodies that LangSmith's server received, and what its client spilled.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import zstandard
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, MessagesState, StateGraph
from langsmith import tracing_context

from tests.support.langsmith_server import LangSmithServer, forget_variables
from tests.tracing.on_disk import readable
from xrouter_lg import ModelCard, ModelPool, XRouterNode
from xrouter_lg.errors import AllCandidatesFailedError
from xrouter_lg.testing import FakeModel, FakeOpenAIServer, FaultPlan, always
from xrouter_lg.testing.faults import ErrorAnswer
from xrouter_lg.tracing import (
    EMAIL,
    IBAN,
    PAYMENT_CARD,
    PHONE,
    Recorder,
    langsmith_client,
    redact_patterns,
)
from xrouter_lg.tracing.runs.redact import scrub_text

KEYS = {
    "openai": "sk-proj-Ab3dEfGhIjKlMnOpQrStUvWx",
    "anthropic": "sk-ant-api03-Zy9xWvUtSrQpOnMlKjIh",
    "google": "AIzaSyA1b2C3d4E5f6G7h8I9j0KlMnOpQrStUv",
    "groq": "gsk_1a2B3c4D5e6F7g8H9i0J",
    "hugging face": "hf_QwErTyUiOpAsDfGhJkLz1",
    "xai": "xai-9f8E7d6C5b4A3z2Y1x0W",
    "github": "ghp_0a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R",
    "aws": "AKIAQ3EXAMPLE7KEYS99",
    "langsmith": "lsv2_pt_0f1e2d3c4b5a69788796a5b4c3d2e1f0_abc",
    "slack": "xoxb-123456789012-abcdefABCDEF",
    "jwt": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl",
    "bearer": "Bearer f00ba4-77aa-token-value",
    "url": "http://svc:hunter2pass@internal.example:8080/v1",
}
"""Credentials as their issuers shape them."""

PLAIN_KEY = "n0-special-shape-at-all"
"""The value of a variable that is named like a key."""

PERSONAL = {
    "e-mail": "Jo.Doe+shop@mail.example.org",
    "phone": "+49 170 5550 1234",
    "us phone": "(415) 555-0132",
    "card": "4111 1111 1111 1111",
    "iban": "DE89 3704 0044 0532 0130 00",
}

SECRET_PARTS = [key.removeprefix("Bearer ") for name, key in KEYS.items() if name != "url"]
PLANTED = [*SECRET_PARTS, "hunter2pass", PLAIN_KEY, *PERSONAL.values()]

HIDE = redact_patterns(EMAIL, PHONE, PAYMENT_CARD, IBAN)


def found(text: str | bytes) -> list[str]:
    data = text if isinstance(text, bytes) else text.encode()
    return [planted for planted in PLANTED if planted.encode() in data]


@pytest.fixture
def langsmith() -> Iterator[LangSmithServer]:
    with LangSmithServer() as running:
        yield running


@pytest.fixture(autouse=True)
def key_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_API_KEY", PLAIN_KEY)


def everything() -> str:
    return " | ".join([*KEYS.values(), PLAIN_KEY, *PERSONAL.values()])


def app(server: FakeOpenAIServer, node_before: Any = None) -> Any:
    pool = ModelPool(
        [
            ModelCard(
                name=name,
                model=name,
                base_url=server.base_url,
                api_key_env="SHOP_API_KEY",
                price={"input": 1, "output": 2},
                max_retries=0,
            )
            for name in ("small", "large")
        ],
        default="small",
    )
    builder = StateGraph(MessagesState)
    builder.add_node("model", XRouterNode(pool, policy="cheapest"))
    builder.add_edge("model", END)
    builder.add_node("before", node_before or careless(server.base_url))
    builder.add_edge(START, "before")
    builder.add_edge("before", "model")
    return builder.compile(name=f"app of {PERSONAL['e-mail']}")


def careless(base_url: str) -> Any:
    """A node with a client of its own: a password in its URL (a card refuses such), a key in the
    code, and keys in its headers."""
    model = ChatOpenAI(
        model="small",
        base_url=base_url.replace("://", "://svc:hunter2pass@"),
        api_key=KEYS["openai"],
        default_headers={"X-Api-Key": KEYS["anthropic"], "X-Extra": KEYS["google"]},
        include_response_headers=True,
        max_retries=0,
    )

    async def before(state: MessagesState, config: RunnableConfig) -> dict[str, Any]:
        with contextlib.suppress(Exception):
            await model.ainvoke(state["messages"], config)
        return {}

    return before


def traced(graph: Any, recorder: Recorder, langsmith: LangSmithServer, messages: list[Any]) -> Any:
    """One request, recorded and sent to LangSmith; its answer, or its exception."""
    client = langsmith_client(HIDE, api_url=langsmith.url, api_key=KEYS["langsmith"])
    config = {
        "callbacks": [recorder],
        "tags": [f"from {PERSONAL['e-mail']}"],
        "metadata": {"who": everything(), "headers": {"authorization": KEYS["bearer"]}},
        "run_name": f"asks {PERSONAL['phone']}",
        "configurable": {"thread_id": f"th {PERSONAL['e-mail']}"},
    }
    try:
        with tracing_context(enabled=True, client=client, project_name="p"):
            return asyncio.run(graph.ainvoke({"messages": messages}, config))
    except Exception as error:
        return error
    finally:
        client.flush(10)
        client.cleanup()
        recorder.flush(10)


def bodies(langsmith: LangSmithServer) -> bytes:
    sent = b"\n".join(body for _, _, body in langsmith.requests)
    assert b"dotted_order" in sent  # there is something to look through
    return sent


def own_logs(caplog: pytest.LogCaptureFixture) -> str:
    """What this package and LangSmith's client logged. The model clients log whole requests at
    DEBUG; that is theirs to switch off, and their keys are hidden there too."""
    named = [r for r in caplog.records if r.name.split(".")[0] in ("xrouter_lg", "langsmith")]
    return "\n".join(record.getMessage() for record in named)


def test_an_answered_request_leaves_nothing_behind(
    db: Path, langsmith: LangSmithServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    messages = [
        SystemMessage(everything()),
        HumanMessage(everything()),
        AIMessage("", tool_calls=[{"name": "look", "args": {"q": everything()}, "id": "c"}]),
        HumanMessage([{"type": "text", "text": everything()}]),
    ]
    reply = f"your data: {everything()}"
    with (
        FakeOpenAIServer([FakeModel(name="small", reply=reply), FakeModel(name="large")]) as server,
        Recorder(db, redact=HIDE) as recorder,
    ):
        state = traced(app(server), recorder, langsmith, messages)
        record = state["messages"][-1].response_metadata["xrouter"]
        recorder.store.record_feedback(record["trace_id"], "k", 1.0)
        assert recorder.store.counts()["routes"] == 1
        assert found(readable(db)) == []
    assert found(bodies(langsmith)) == []
    assert found(own_logs(caplog)) == []
    keys = [planted for planted in found(orjson.dumps(record)) if planted in SECRET_PARTS]
    assert keys == []


def test_a_failed_request_leaves_nothing_behind(
    db: Path, langsmith: LangSmithServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    body = orjson.dumps({"error": {"message": f"bad key: {everything()}"}})
    refused = FaultPlan(default=always(ErrorAnswer(kind="refused", status=401, body=body)))
    models = [FakeModel(name="small"), FakeModel(name="large")]
    with (
        FakeOpenAIServer(models, faults=refused) as server,
        Recorder(db, redact=HIDE) as recorder,
    ):
        error = traced(app(server), recorder, langsmith, [HumanMessage(everything())])
        assert isinstance(error, AllCandidatesFailedError)
        assert found(readable(db)) == []
    assert found(bodies(langsmith)) == []
    assert found(own_logs(caplog)) == []


def test_an_exception_of_the_app_itself_leaves_nothing_behind(
    db: Path, langsmith: LangSmithServer
) -> None:
    def before(_: Any) -> Any:
        local = everything()
        raise RuntimeError(f"while handling {local}")

    with (
        FakeOpenAIServer([FakeModel(name="small"), FakeModel(name="large")]) as server,
        Recorder(db, redact=HIDE) as recorder,
    ):
        error = traced(app(server, before), recorder, langsmith, [HumanMessage("hi")])
        assert isinstance(error, RuntimeError)
        assert found(readable(db)) == []
    assert found(bodies(langsmith)) == []


def test_what_langsmith_s_client_spills_is_redacted_too(
    db: Path, langsmith: LangSmithServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spill = tmp_path / "spill"
    spill.mkdir()
    monkeypatch.setenv("LANGSMITH_FAILED_TRACES_DIR", str(spill))
    forget_variables()  # LangSmith reads each variable once
    langsmith.status = 422
    with (
        FakeOpenAIServer([FakeModel(name="small"), FakeModel(name="large")]) as server,
        Recorder(db, redact=HIDE) as recorder,
    ):
        traced(app(server), recorder, langsmith, [HumanMessage(everything())])
    monkeypatch.undo()
    forget_variables()
    files = [path.read_bytes() for path in spill.iterdir()]
    spilled = b"".join([*files, *(unspilled(orjson.loads(file)) for file in files)])
    assert b"dotted_order" in spilled
    assert found(spilled) == []


def unspilled(envelope: dict[str, Any]) -> bytes:
    """The body that the client meant to send."""
    body = base64.b64decode(envelope["body_base64"])
    if envelope["headers"].get("Content-Encoding") != "zstd":
        return body
    return zstandard.ZstdDecompressor().stream_reader(body, read_across_frames=True).read()


def test_feedback_sent_through_the_client_is_redacted(langsmith: LangSmithServer) -> None:
    client = langsmith_client(HIDE, api_url=langsmith.url, api_key="lsv2_pt_test")
    with tracing_context(enabled=True, client=client, project_name="p"):
        RunnableLambda(lambda x: x).invoke("hi")
    client.flush(10)
    [trace] = {run["trace_id"] for run in langsmith.runs.values()}
    client.create_feedback(
        trace,
        key="k",
        comment=everything(),
        value={"said": everything()},
        correction={"text": everything()},
        session_id=langsmith.session("p")["id"],
    )
    client.flush(10)
    client.cleanup()
    assert len(langsmith.feedback) == 1
    assert found(bodies(langsmith)) == []


def test_a_redactor_that_fails_sends_nothing_of_the_value(langsmith: LangSmithServer) -> None:
    def broken(_: Any) -> Any:
        raise KeyError("oops")

    client = langsmith_client(broken, api_url=langsmith.url, api_key="lsv2_pt_test")
    config = {"tags": ["plum"], "metadata": {"m": "plum"}, "run_name": "plum"}
    with tracing_context(enabled=True, client=client, project_name="p"):
        RunnableLambda(lambda x: x).invoke({"q": "plum"}, config)
    client.flush(10)
    client.cleanup()
    assert len(langsmith.runs) == 1
    assert b"plum" not in bodies(langsmith)


def test_without_a_redactor_credentials_are_removed_all_the_same(
    db: Path, langsmith: LangSmithServer
) -> None:
    client = langsmith_client(api_url=langsmith.url, api_key="lsv2_pt_test")
    with tracing_context(enabled=True, client=client), Recorder(db) as recorder:
        RunnableLambda(lambda x: x).invoke(everything(), {"callbacks": [recorder]})
        client.flush(10)
        recorder.flush(10)
        left = found(readable(db))
    client.cleanup()
    assert left == found(bodies(langsmith)) == list(PERSONAL.values())


def test_an_anonymizer_beside_the_redactor_is_refused() -> None:
    with pytest.raises(ValueError, match="pass redact= instead of anonymizer="):
        langsmith_client(HIDE, anonymizer=lambda x: x)


@pytest.mark.parametrize("name", list(KEYS))
def test_each_issuer_s_key_is_known(name: str) -> None:
    text = scrub_text(f"the key is {KEYS[name]}, thanks")
    assert found(text) == [] and text.startswith("the key is ") and text.endswith(", thanks")


@pytest.mark.parametrize(
    "text",
    [
        "01a20d09-6e1f-7784-9b41-e45051a122ff",
        "2026-11-24T10:13:25.746109+00:00",
        "20261124T101325746109Z01a20d09-6e1f-7784-9b41-e45051a122ff",
        "model:b16dc132-084a-f1b9-498b-e6aaaf299b92|route:9a35832a-8dea-33fd-403c-19d29d4ee3bb",
        "0.0000068",
        "1790000000.25",
        "version 3.11.7 of 2026-11-24, 10 000 rows",
        "[1234, 5678, 9012, 3456]",
    ],
)
def test_ids_times_and_figures_are_not_taken_for_personal_data(text: str) -> None:
    assert HIDE(text) == text
