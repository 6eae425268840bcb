"""What must never reach the disk: looked for in the bytes of the files themselves."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableLambda
from langchain_openai import ChatOpenAI

from tests.tracing.on_disk import readable
from tests.tracing.routed import Worker, question, routed_graph
from xrouter_lg.calls.failures import describe
from xrouter_lg.json_text import from_json, to_json
from xrouter_lg.prompts import slots
from xrouter_lg.testing import FakeModel, FakeOpenAIServer
from xrouter_lg.tracing import Recorder, TraceStore, redact_patterns
from xrouter_lg.tracing.runs.redact import MASK, scrub_json, scrub_row, scrub_text

KEY = "sk-planted-0123456789abcdefghij"


def stored_bytes(db: Path, recorder: Recorder) -> bytes:
    assert recorder.flush(10)
    with recorder.store._engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    assert recorder.store.counts()["runs"] > 0
    return readable(db)


async def test_an_api_key_of_a_real_client_is_not_stored(db: Path, recorder: Recorder) -> None:
    with FakeOpenAIServer([FakeModel(name="small", reply="fine")]) as server:
        model = ChatOpenAI(
            model="small",
            base_url=server.base_url,
            api_key=KEY,
            default_headers={"Authorization": f"Bearer {KEY}", "X-Api-Key": KEY},
            include_response_headers=True,
        )
        await model.ainvoke("hi", {"callbacks": [recorder]})
    assert KEY.encode() not in stored_bytes(db, recorder)


async def test_a_key_among_the_call_parameters_is_not_stored(db: Path, recorder: Recorder) -> None:
    worker = Worker(
        extra={"api_key": "plain-secret-value", "headers": {"Authorization": "xyzzy-1"}}
    )
    await routed_graph(worker).ainvoke(question(), {"callbacks": [recorder]})
    data = stored_bytes(db, recorder)
    assert b"plain-secret-value" not in data
    assert b"xyzzy-1" not in data


async def test_response_headers_lose_cookies_and_keys(db: Path, recorder: Recorder) -> None:
    headers = {"Set-Cookie": "session=abcdef", "x-api-key": "another-value", "date": "today"}
    answer = AIMessage("x", response_metadata={"headers": headers})
    await RunnableLambda(lambda _: {"messages": [answer]}).ainvoke({}, {"callbacks": [recorder]})
    data = stored_bytes(db, recorder)
    assert b"session=abcdef" not in data
    assert b"another-value" not in data
    assert b"today" in data


async def test_a_key_in_an_error_is_not_stored(db: Path, recorder: Recorder) -> None:
    worker = Worker(error=f"Incorrect API key provided: {KEY}; api_key='other-secret'")
    with pytest.raises(RuntimeError):
        await routed_graph(worker).ainvoke(question(), {"callbacks": [recorder]})
    data = stored_bytes(db, recorder)
    assert KEY.encode() not in data
    assert b"api_key='other-secret'" not in data


@pytest.mark.parametrize(
    "variable",
    [
        "LOCAL_KEY",
        "OPENAI_API_KEY_PROD",
        "MYAPIKEY",
        "db_password",
        "GITHUB_TOKENS",
        "CREDENTIALS_A",
    ],
)
async def test_the_value_of_a_key_variable_is_not_stored_wherever_it_occurs(
    variable: str, db: Path, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "n0-particular-shape")
    await routed_graph().ainvoke(
        question("my key is n0-particular-shape"), {"callbacks": [recorder]}
    )
    assert b"n0-particular-shape" not in stored_bytes(db, recorder)


@pytest.mark.parametrize("variable", ["KEYBOARD_LAYOUT", "TOKENIZERS_FOLDER", "SECRETARY"])
async def test_a_variable_that_only_sounds_like_a_key_hides_nothing(
    variable: str, db: Path, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "us-intl-2024")
    await routed_graph().ainvoke(question("it is us-intl-2024"), {"callbacks": [recorder]})
    assert b"us-intl-2024" in stored_bytes(db, recorder)


async def test_redaction_happens_before_anything_is_stored(db: Path) -> None:
    with Recorder(db, redact=redact_patterns(r"[\w.]+@[\w.]+")) as recorder:
        await routed_graph(thread_id="jo@example.org").ainvoke(
            question("I am jo@example.org"),
            {"callbacks": [recorder], "metadata": {"who": "jo@example.org"}, "tags": ["jo@b.org"]},
        )
        data = stored_bytes(db, recorder)
        assert b"jo@" not in data
        assert recorder.store.routes()[0].record.thread_id == MASK


async def test_an_error_is_redacted_too(db: Path) -> None:
    with Recorder(db, redact=redact_patterns(r"[\w.]+@[\w.]+")) as recorder:
        with pytest.raises(RuntimeError):
            await routed_graph(Worker(error="no jo@example.org")).ainvoke(
                question(), {"callbacks": [recorder]}
            )
        assert b"no jo@" not in stored_bytes(db, recorder)


async def test_a_redactor_that_fails_stores_nothing_of_the_value(db: Path) -> None:
    def broken(value: Any) -> Any:
        raise KeyError("oops")

    with Recorder(db, redact=broken) as recorder:
        await RunnableLambda(lambda x: x).ainvoke("private words", {"callbacks": [recorder]})
        assert b"private words" not in stored_bytes(db, recorder)
        [trace] = recorder.store.find("")
        [run] = recorder.store.runs(trace)
        assert run["inputs"] == {"redaction_failed": "KeyError"}


def test_a_tools_schema_keeps_an_argument_named_api_key() -> None:
    schema = '{"properties":{"api_key":{"type":"string"}}}'
    assert scrub_json(schema) == schema


def test_token_counts_are_no_secrets() -> None:
    text = '{"input_tokens":5,"prompt_token_ids":[1,2],"token":"word"}'
    assert scrub_json(text) == text


def test_a_bearer_token_is_removed_from_text() -> None:
    assert scrub_text("sent Bearer abcdefghijk1 to host") == f"sent {MASK} to host"


def test_an_ordinary_sentence_is_left_alone() -> None:
    sentence = "The task-force asked for the api key policy of the bearer instruments."
    assert scrub_text(sentence) == sentence


def test_the_store_never_sees_what_was_redacted(store: TraceStore, db: Path) -> None:
    with Recorder(store, redact=lambda value: "gone") as recorder:
        RunnableLambda(lambda x: x).invoke({"a": "private"}, {"callbacks": [recorder]})
        assert b"private" not in stored_bytes(db, recorder)


async def test_a_dummy_key_is_an_ordinary_word(
    db: Path, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_KEY", "not-needed")
    await routed_graph().ainvoke(question("a key is not-needed"), {"callbacks": [recorder]})
    assert b"a key is not-needed" in stored_bytes(db, recorder)


KINDS = (
    KEY,
    "hf_abcdefghijklmnopqrst",
    "ghp_0123456789abcdefghijklmnopqrstuvwxyz",
    "AKIAABCDEFGHIJKLMNOP",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.abc-def",
    "Bearer abcdefghijk1",
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("before", ["", "my key is ", "my key:\n", "\t", "\r\n", "\x01", '"', "="])
def test_a_key_is_removed_whatever_stands_before_it(kind: str, before: str) -> None:
    stored = scrub_row({"inputs": to_json({"x": f"{before}{kind}"})}, {}, ())["inputs"]
    assert stored is not None and kind.split()[-1] not in stored
    assert from_json(stored)["x"] == f"{before}{MASK}"


@pytest.mark.parametrize("at", [0, 65_000, 65_530, 65_536, 66_000, 200_000])
def test_a_key_in_a_long_text_is_removed_wherever_it_stands(at: int) -> None:
    text = "word " * (at // 5) + " " * (at % 5)
    for kind in (*KINDS, f"sk-{'a1' * 40_000}"):
        assert scrub_text(f"{text}{kind} and {'more ' * 30_000}").startswith(
            f"{text}{MASK} and more"
        )


def test_a_private_key_without_an_end_leaves_json_that_can_be_read() -> None:
    text = '-----BEGIN RSA PRIVATE KEY-----\nMIIabc\n\\" more'
    stored = scrub_row({"inputs": to_json({"x": text, "y": "kept"})}, {}, ())["inputs"]
    assert stored is not None and "MIIabc" not in stored
    assert from_json(stored)["y"] == "kept"


AWS = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
NAMED = {
    f"aws_secret_access_key = {AWS}": AWS,
    "AccountName=x;AccountKey=Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6==;Suffix=y": "Eby8vdM",
    "postgresql://app:hunter2secret@db:5432/x": "hunter2secret",
    "mysql://app:p@ss@hunter2secret@db/x": "hunter2secret",
    "redis://:hunter2secret@h:6379/0": "hunter2secret",
    "Authorization: Basic dXNlcjpwYXNzd29yZA==": "dXNlcjpwYXNzd29yZA",
    "https://hooks.slack.com/services/T00000000/B00000000/XXXXXXXXXXXX": "XXXXXXXXXXXX",
    "pypi-AgEIcHlwaS5vcmcCJDAwMDAwMDAw": "AgEIcHlwaS5vcmc",
    "hvs.CAESIAAAAAAAAAAAAAAAAA": "CAESIAAAA",
    "DB_PASSWORD=hunter2secret": "hunter2secret",
    'export OPENAI_API_KEY="abcdef0123456789"': "abcdef0123456789",
    to_json({"type": "service_account", "private_key": "hunter2secret"}): "hunter2secret",
    to_json({"db_password": "hunter2\nsecret", "port": 5432}): "hunter2",
}
"""Texts, and what in them nobody may read."""


@pytest.mark.parametrize("text", NAMED)
def test_a_credential_that_its_name_gives_away_is_removed(text: str) -> None:
    secret = NAMED[text]
    stored = scrub_row({"inputs": to_json({"said": text, "y": "kept"})}, {}, ())["inputs"]
    assert stored is not None and secret not in stored
    assert from_json(stored)["y"] == "kept"
    assert secret not in scrub_text(f"the provider said {text}")
    assert secret not in describe(RuntimeError(f"the provider said {text}"))


TELLING = (
    *("DB_PASSWORD", "aws_secret_access_key", "SecretAccessKey", "private_key", "passphrase"),
    *("AccountKey", "session_token", "Ocp-Apim-Subscription-Key", "Proxy-Authorization"),
    *("encryption_key", "bot_token", "id-token", "api token", "API key"),
)


@pytest.mark.parametrize("name", TELLING)
def test_the_argument_of_a_tool_that_holds_a_credential_is_removed(name: str) -> None:
    arguments = {name: "hunter2secret", "host": "db"}
    message = {"args": arguments, "raw": {"function": {"arguments": to_json(arguments)}}}
    stored = scrub_row({"outputs": to_json(message)}, {}, ())["outputs"]
    assert stored is not None and "hunter2secret" not in stored
    kept = from_json(stored)
    assert kept["args"] == {name: MASK, "host": "db"}
    assert from_json(kept["raw"]["function"]["arguments"]) == {name: MASK, "host": "db"}


@pytest.mark.parametrize("name", TELLING)
@pytest.mark.parametrize("form", ["{}=hunter2secret", "{}: hunter2secret", "'{}': 'hunter2secret'"])
def test_what_is_set_to_such_a_name_is_removed_from_a_text(name: str, form: str) -> None:
    assert "hunter2" not in scrub_text(f"sent with {form.format(name)}, and refused")


@pytest.mark.parametrize(
    "name", ["public_key", "primary_key", "sort_key", "pwd", "monkey", "token"]
)
def test_what_only_sounds_like_a_credential_is_kept(name: str) -> None:
    text = to_json({"args": {name: "hunter2secret"}, "raw": to_json({name: "hunter2secret"})})
    assert scrub_row({"outputs": text}, {}, ())["outputs"] == text


PIECES = (
    *(
        "authorization",
        "Basic ",
        "accountkey",
        "secret_access_key",
        "PASSWORD",
        "password",
        "a1" * 20,
    ),
    *('"', "\\", ":", "=", "]", "}", ",", " ", "://", "@", "sk-"),
)


@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
def test_what_is_stored_of_pieces_of_credentials_stays_json(text: str) -> None:
    value = {"x": text, "y": [[text, 1, True]], "z": to_json({text: text}), "end": "kept"}
    stored = scrub_row({"inputs": to_json(value)}, {}, ())["inputs"]
    assert stored is not None and from_json(stored)["end"] == "kept"


@given(st.text())
def test_what_is_stored_of_any_text_stays_json(text: str) -> None:
    stored = scrub_row({"inputs": to_json({"x": f"{KEY} {text}"})}, {}, ())["inputs"]
    assert stored is not None and set(from_json(stored)) == {"x"}


@given(st.text(alphabet="<| /\n>[]INSTrequestcontext s", max_size=60))
def test_forged_tags_are_found_as_the_prompt_hash_says(text: str) -> None:
    said = re.compile(slots._FORGED, re.IGNORECASE)
    assert [m.span() for m in said.finditer(text)] == [
        m.span() for m in slots._MARKUP.finditer(text)
    ]
