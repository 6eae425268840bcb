"""Typical mistakes, made for real, and what is said of each; the table in docs/errors.md.

python -m tests.support.mistakes     draws the table anew
"""

from __future__ import annotations

import os
import re
import socket
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langchain_core.messages import HumanMessage
from langsmith.utils import get_env_var
from typer.testing import CliRunner

from tests.support import apps
from xrouter_lg import Budget, ModelCard, ModelPool, Recorder, TraceStore, XRouterNode
from xrouter_lg.cli import app as command_line
from xrouter_lg.errors import XRouterError

ROOT = Path(__file__).parents[2]
DOC = ROOT / "docs" / "errors.md"
_DRAWN = re.compile(r"(<!-- drawn -->\n)(.*?)(<!-- end -->)", re.DOTALL)
_SECRET = "sk-not-a-real-key-0123456789abcdef"


@dataclass(frozen=True)
class Mistake:
    """One mistake, and what its message must hold."""

    area: str
    title: str
    make: Callable[[Path], str]
    """In an empty folder, which is the current one; returns the message."""
    value: str
    """What was given."""
    place: str
    """Where."""
    fix: str
    """What to do."""


MISTAKES: list[Mistake] = []


def mistake(area: str, title: str, *, value: str, place: str, fix: str) -> Callable[..., Any]:
    """Note a function that makes the mistake."""

    def noted(make: Callable[[Path], Any]) -> Callable[[Path], Any]:
        MISTAKES.append(
            Mistake(area, title, lambda folder: _raised(make, folder), value, place, fix)
        )
        return make

    return noted


def _raised(make: Callable[[Path], Any], folder: Path) -> str:
    try:
        told = make(folder)
    except XRouterError as error:
        return str(error)
    assert isinstance(told, str), "the mistake was no mistake"
    return told


def xrouter(*arguments: str) -> str:
    """The one line that a command says on stderr."""
    found = CliRunner().invoke(command_line, list(arguments), prog_name="xrouter")
    assert found.exit_code not in (0, 70), found.output
    # Other tests of this process may have left something that warns.
    (line,) = (one for one in found.stderr.splitlines() if one.startswith("xrouter: "))
    return line.removeprefix("xrouter: ")


def said_by(area: str, title: str, line: str, *, value: str, place: str, fix: str) -> None:
    """A mistake on the command line."""
    arguments = line.split()
    mistake(area, title, value=value, place=place, fix=fix)(lambda _: xrouter(*arguments))


def pool_file(text: str) -> Callable[[Path], Any]:
    def make(folder: Path) -> Any:
        folder.joinpath("pool.yaml").write_text(text)
        return ModelPool.from_yaml(folder / "pool.yaml")

    return make


def _node(**options: Any) -> XRouterNode:
    cards = [apps.scripted("small"), apps.scripted("large")]
    return XRouterNode(ModelPool(cards), **options)


def _asked(text: str = "hello", **configurable: Any) -> Any:
    return apps.app(_node()).invoke(
        {"messages": [HumanMessage(text)]}, apps.options(**configurable)
    )


_CARD = "models:\n  - name: small\n    model: openai:gpt-5-nano\n"
POOL, APP, COMMAND = "the pool file", "the node and its requests", "the command line"

# --- the pool file ---------------------------------------------------------------------------

mistake(POOL, "a file that is not there", value="gone.yaml", place="gone.yaml", fix="xrouter init")(
    lambda folder: ModelPool.from_yaml(folder / "gone.yaml")
)
mistake(POOL, "a tab in YAML", value="\\t", place="line 2", fix="indent with spaces")(
    pool_file("models:\n\t- name: small\n")
)
mistake(POOL, "no models", value="[]", place="models", fix="at least one")(
    pool_file("models: []\n")
)
mistake(POOL, "a misspelt key", value="'modle'", place="models[0]", fix="did you mean")(
    pool_file("models:\n  - name: small\n    modle: openai:gpt-5-nano\n")
)
mistake(POOL, "two cards of one name", value="'small'", place="pool.yaml", fix="rename one")(
    pool_file(_CARD + "  - name: Small\n    model: openai:gpt-5-mini\n")
)
mistake(POOL, "a price without output", value="output", place="'small'", fix="USD per million")(
    pool_file(_CARD + "    price: {input: 1}\n")
)
mistake(POOL, "a negative price", value="-1", place="'small'", fix="zero or more")(
    pool_file(_CARD + "    price: {input: -1, output: 2}\n")
)
mistake(POOL, "an unknown kind of price", value="'ouput'", place="'small'", fix="output")(
    pool_file(_CARD + "    price: {input: 1, ouput: 2}\n")
)
mistake(POOL, "a default that is no card", value="'large'", place="default", fix="small")(
    pool_file("default: large\n" + _CARD)
)
mistake(
    POOL,
    "a key instead of its variable",
    value="api_key_env",
    place="'small'",
    fix="NAME of an environment variable",
)(pool_file(_CARD + f"    api_key_env: {_SECRET}\n"))
mistake(POOL, "a window of 0 tokens", value="0", place="'small'", fix="at least 1")(
    pool_file(_CARD + "    context_window: 0\n")
)
mistake(POOL, "an unknown provider", value="'acme'", place="'small'", fix="openai")(
    lambda _: XRouterNode(ModelPool([ModelCard(name="small", model="acme:rocket")]))
)


@mistake(
    POOL, "a key that is not set", value="SOME_KEY", place="'small'", fix="put the API key into it"
)
def _no_key(_: Path) -> Any:
    os.environ.pop("SOME_KEY", None)
    url = "http://127.0.0.1:1/v1"
    return XRouterNode(
        ModelPool([ModelCard(name="small", model="x", base_url=url, api_key_env="SOME_KEY")])
    )


# --- the node and its requests ---------------------------------------------------------------

mistake(APP, "an unknown policy", value="'cheepest'", place="policy", fix="cheapest")(
    lambda _: _node(policy="cheepest")
)
mistake(
    APP, "a checkpoint that is not there", value="none", place="checkpoints", fix="training wrote"
)(lambda _: _node(policy="checkpoints/none"))
mistake(APP, "a negative cost weight", value="-1", place="cost_weight", fix="0 or more")(
    lambda _: _node(cost_weight=-1)
)
mistake(APP, "exploration in percent", value="5", place="exploration", fix="a number in [0, 1]")(
    lambda _: _node(exploration=5)
)
mistake(APP, "no turn", value="0", place="max_turns", fix="1 or more")(lambda _: _node(max_turns=0))
mistake(APP, "a negative budget", value="-1", place="per_request_usd", fix="above zero")(
    lambda _: Budget(per_request_usd=-1)
)
mistake(APP, "an unknown way to exceed", value="'stop'", place="on_exceeded", fix="cheapest")(
    lambda _: Budget(per_request_usd=1, on_exceeded="stop")  # type: ignore[arg-type]
)
mistake(APP, "a word for a number", value="'cheap'", place="cost_weight", fix="number")(
    lambda _: _asked(cost_weight="cheap")
)
mistake(APP, "a card that is not in the pool", value="'huge'", place="allow", fix="small, large")(
    lambda _: _asked(allow=["huge"])
)
mistake(APP, "every card denied", value="'small'", place="deny list", fix="Loosen the rule")(
    lambda _: _asked(deny=["small", "large"])
)
mistake(APP, "a quality target in percent", value="97", place="quality_target", fix="at most 1")(
    lambda _: _asked(quality_target=97)
)
mistake(APP, "no message", value="empty", place="state['messages']", fix="messages_key=")(
    lambda _: apps.app(_node()).invoke({"messages": []})
)
mistake(
    APP, "another key of the state", value="state['chat']", place="messages", fix="messages_key="
)(lambda _: _node(messages_key="chat").invoke({"messages": [HumanMessage("hello")]}))
mistake(
    APP, "a budget below the cheapest card", value="0.0000001", place="request's limit", fix="Raise"
)(
    lambda _: apps.app(_node(budget=Budget(per_request_usd=0.0000001, on_exceeded="error"))).invoke(
        {"messages": [HumanMessage("hello")]}
    )
)


@mistake(
    APP, "a trace store that is no database", value="notes.txt", place="notes.txt", fix="another"
)
def _no_database(folder: Path) -> Any:
    folder.joinpath("notes.txt").write_text("not a database, but a text that is long enough " * 40)
    return TraceStore(folder / "notes.txt")


@mistake(APP, "feedback that is no number", value="nan", place="score", fix="finite")
def _no_number(folder: Path) -> Any:
    with Recorder(folder / "t.db") as recorder:
        recorder.store.record_feedback("t", "liked", float("nan"))


# --- the command line ------------------------------------------------------------------------

said_by(COMMAND, "a misspelt command", "trian", value="'trian'", place="command", fix="'train'")
said_by(
    COMMAND, "a word for a number", "serve --pool p --port many",
    value="'many'", place="'--port'", fix="integer",
)  # fmt: skip
said_by(
    COMMAND, "a time that is none", "savings --since yesterday",
    value="'yesterday'", place="--since", fix="7d",
)  # fmt: skip
said_by(
    COMMAND, "a store that is not there", "traces list --store gone.db",
    value="'gone.db'", place="trace store", fix="--store",
)  # fmt: skip


@mistake(COMMAND, "an id of no trace", value="'deadbeef'", place="t.db", fix="traces list")
def _no_trace(folder: Path) -> str:
    TraceStore("t.db").close()
    return xrouter("traces", "show", "deadbeef", "--store", "t.db")


said_by(
    COMMAND, "a prompt without a checkpoint to read it", "explain hello",
    value="'checkpoints/production'", place="manifest.json", fix="promote one",
)  # fmt: skip
said_by(
    COMMAND, "a folder without outcomes", "train gone --output c",
    value="'gone'", place="outcomes.parquet", fix="xrouter outcomes build",
)  # fmt: skip


@mistake(COMMAND, "an output that is not named", value="--output", place="--output", fix="folder")
def _no_output(folder: Path) -> str:
    folder.joinpath("outcomes").mkdir()
    return xrouter("train", "outcomes")


@mistake(
    COMMAND,
    "a scale the wrong way round",
    value="5..1",
    place="feedback key 'stars'",
    fix="stars=1..5",
)
def _wrong_scale(_: Path) -> str:
    TraceStore("t.db").close()
    return xrouter("outcomes", "build", "--store", "t.db", "--to", "o", "--feedback", "stars=5..1")


said_by(
    COMMAND, "a verdict on no checkpoint", "judge --checkpoint gone --outcomes o --prompts p",
    value="'gone'", place="manifest.json", fix="training wrote",
)  # fmt: skip
said_by(
    COMMAND, "promoting no checkpoint", "promote gone",
    value="'gone'", place="manifest.json", fix="training wrote",
)  # fmt: skip
said_by(
    COMMAND, "rolling back to nothing", "rollback",
    value="'production'", place="alias", fix="Promote",
)  # fmt: skip
said_by(
    COMMAND, "a server for everybody, without keys", "serve --pool pool.yaml --host 0.0.0.0",
    value="'0.0.0.0'", place="host", fix="xrouter keys add",
)  # fmt: skip
said_by(
    COMMAND, "a size that is none", "serve --pool p --max-body huge",
    value="'huge'", place="--max-body", fix="500MB",
)  # fmt: skip
said_by(
    COMMAND, "revoking a key that is not there", "keys revoke nobody",
    value="'nobody'", place="xrouter_keys.db", fix="keys list",
)  # fmt: skip


@mistake(
    COMMAND, "a key of a name that is taken", value="'alice'", place="keys.db", fix="another name"
)
def _taken(_: Path) -> str:
    CliRunner().invoke(command_line, ["keys", "add", "alice"])
    return xrouter("keys", "add", "alice")


@mistake(COMMAND, "an unknown verifier", value="'exakt'", place="verifiers.yaml", fix="exact")
def _no_verifier(folder: Path) -> str:
    folder.joinpath("verifiers.yaml").write_text("- verifier: exakt\n")
    return xrouter("verifiers", "check", "verifiers.yaml")


@mistake(
    COMMAND, "a dashboard on a port that is taken", value="port", place="127.0.0.1", fix="--port"
)
def _taken_port(_: Path) -> str:
    TraceStore("t.db").close()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        return xrouter("dashboard", "--store", "t.db", "--port", port).replace(port, "8411")


@mistake(
    COMMAND,
    "LangSmith without a key",
    value="LANGSMITH_API_KEY",
    place="api.smith.langchain.com",
    fix="export it",
)
def _no_langsmith(_: Path) -> str:
    for name in [name for name in os.environ if name.startswith(("LANGSMITH_", "LANGCHAIN_"))]:
        del os.environ[name]
    return xrouter("traces", "pull", "--project", "mine")


# --- the table -------------------------------------------------------------------------------


def message_of(one: Mistake) -> str:
    """What is said, without what differs between two machines."""
    before, environment = Path.cwd(), dict(os.environ)
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder).resolve()
        os.chdir(here)
        get_env_var.cache_clear()  # type: ignore[attr-defined]  # LangSmith reads each once
        try:
            told = one.make(here)
        finally:
            os.chdir(before)
            os.environ.clear()
            os.environ.update(environment)
            get_env_var.cache_clear()  # type: ignore[attr-defined]
    return " ".join(told.replace(f"{here}/", "").split())


def table() -> str:
    lines = []
    for area in dict.fromkeys(one.area for one in MISTAKES):
        lines += [f"## In {area}", "", "| mistake | what is said |", "|---|---|"]
        for one in MISTAKES:
            if one.area == area:
                lines.append(f"| {one.title} | {_cell(message_of(one))} |")
        lines.append("")
    return "\n".join(lines)


def _cell(text: str) -> str:
    for mark in "|*[]":
        text = text.replace(mark, f"\\{mark}")
    return text.replace("<", "&lt;")


def drawn() -> str:
    """The table that the page has."""
    found = _DRAWN.search(DOC.read_text())
    assert found is not None
    return found[2]


if __name__ == "__main__":
    text = table()
    DOC.write_text(_DRAWN.sub(lambda m: m[1] + text + m[3], DOC.read_text()))
