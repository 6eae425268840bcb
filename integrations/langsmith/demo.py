"""The whole way over real HTTP: an app traced twice, feedback, a pull, episodes, outcomes."""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from langchain_core.messages import HumanMessage
from langgraph.graph import END, START, MessagesState, StateGraph
from langsmith import Client, tracing_context
from langsmith.utils import get_env_var
from rich.console import Console
from rich.table import Table

from xrouter_lg import ModelPool, Recorder, TraceStore, XRouterNode
from xrouter_lg.langsmith.connection import LangSmith
from xrouter_lg.langsmith.experiment import Result, push_experiment
from xrouter_lg.langsmith.options import PullOptions
from xrouter_lg.langsmith.progress import PullSummary
from xrouter_lg.langsmith.pull import pull
from xrouter_lg.langsmith.push import FeedbackWriter
from xrouter_lg.policies.baselines import RandomPolicy
from xrouter_lg.testing import FakeModel, FakeOpenAIServer
from xrouter_lg.testing.langsmith.server import LangSmithServer

PROJECT = "support-bot"
KEY = "lsv2_pt_demo_0123456789abcdef"  # gitleaks:allow  of the loopback server only

QUESTIONS: tuple[tuple[str, str, str], ...] = (
    *((f"What is {a} + {b}?", str(a + b), "sum") for a, b in ((7, 5), (48, 37), (9, 8), (63, 19))),
    *((f"What is {a} * {b}?", str(a * b), "product") for a, b in ((12, 11), (7, 8), (23, 17))),
    *((f"Reverse the word '{w}'.", w[::-1], "reverse") for w in ("stone", "cable", "paper")),
    *(
        (f"What is the capital of {land}?", town, "capital")
        for land, town in (("France", "Paris"), ("Japan", "Tokyo"), ("Peru", "Lima"))
    ),
)
"""Question, right answer, kind."""

_ROUNDS = 2
"""Each question is asked so many times, so that most are answered by both models."""


def run(folder: Path | None = None) -> None:
    """Show it; traces and tables go to ``folder``, else to a temporary one.

    Raises:
        AssertionError: the two ways of recording differ. They must not.
    """
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="xrouter-langsmith-") as temporary:
            return _run(Path(temporary), Console(width=110, highlight=False))
    folder.mkdir(parents=True, exist_ok=True)
    for old in ("recorded.db", "pulled.db"):
        for file in folder.glob(f"{old}*"):
            file.unlink()
    return _run(folder, Console(width=110, highlight=False))


def _run(folder: Path, console: Console) -> None:
    began = time.perf_counter()
    steps = _Steps(console)
    with LangSmithServer(key=KEY) as server, _models() as models, _key():
        # LangSmith's own price list: up to date for `small`, an old price for `large`.
        server.prices = {"small": ("0.02", "0.06"), "large": ("0.8", "2.4")}
        pool = ModelPool.from_dict(_pool(models.base_url))
        with (
            TraceStore(folder / "recorded.db") as recorded,
            TraceStore(folder / "pulled.db") as pulled,
            LangSmith(endpoint=server.url) as langsmith,
        ):
            with steps("An app with XRouterNode, traced to LangSmith and to the local store"):
                asked = _serve(pool, recorded, server, console)
            with steps("Users say what they think, in both places"):
                _say(recorded, langsmith, asked, console)
            with steps("xrouter traces pull: LangSmith into a second, empty store"):
                _tell(_pull(pulled, langsmith, pool), console)
            with steps("The same requests from both sources: equal episodes"):
                found = _compare(recorded, pulled, console)
            with steps("A late complaint, and the next pull: only what is new"):
                _late(recorded, langsmith, asked, console)
                again = _pull(pulled, langsmith, pool)
                _tell(again, console)
                assert (again.new_runs, again.new_feedback) == (0, 1)
            with steps("Outcomes: what training reads"):
                _outcomes(pulled, folder, console)
            with steps("The answers as a LangSmith experiment on a dataset, pushed twice"):
                _experiment(found, langsmith, server, console)
        keyless = KEY.encode() not in b"".join(
            file.read_bytes() for file in folder.rglob("*") if file.is_file()
        )
        assert keyless, "the key must not be in any file"
    console.print(
        f"\n{len(server.requests)} requests to LangSmith's loopback, {len(models.requests)} to the "
        f"models; the API key is in no file. {time.perf_counter() - began:.1f} s in all."
    )


class _Steps:
    """Numbered headings with the time each step took."""

    def __init__(self, console: Console) -> None:
        self._console, self._number = console, 0

    @contextmanager
    def __call__(self, title: str) -> Iterator[None]:
        self._number += 1
        self._console.print(f"\n[bold]{self._number}. {title}[/]")
        began = time.perf_counter()
        yield
        self._console.print(f"   [dim]{time.perf_counter() - began:.2f} s[/]")


def _models() -> FakeOpenAIServer:
    """``large`` is right, ``small`` is right where it is easy."""
    answers = {question: (right, kind) for question, right, kind in QUESTIONS}

    def reply(easy: tuple[str, ...]) -> Callable[[dict[str, Any]], str]:
        def answer(body: dict[str, Any]) -> str:
            right, kind = answers[body["messages"][-1]["content"]]
            return f"{right}." if kind in easy else "I am not sure, perhaps 42."

        return answer

    return FakeOpenAIServer(
        [
            FakeModel(name="small", reply=reply(("sum", "capital"))),
            FakeModel(name="large", reply=reply(("sum", "capital", "product", "reverse"))),
        ]
    )


def _pool(base_url: str) -> dict[str, Any]:
    prices = {
        "small": {"input": "0.02", "output": "0.06"},
        "large": {"input": "0.5", "output": "1.5"},
    }
    cards = [
        {"name": name, "model": f"openai:{name}", "base_url": base_url, "price": price}
        for name, price in prices.items()
    ]
    return {"default": "large", "models": cards}


@contextmanager
def _key() -> Iterator[None]:
    """The loopback's key in the environment, where the client looks for it."""
    before = os.environ.get("LANGSMITH_API_KEY")
    os.environ["LANGSMITH_API_KEY"] = KEY
    forget: Callable[[], None] = getattr(get_env_var, "cache_clear", lambda: None)
    forget()  # the client reads the environment once
    try:
        yield
    finally:
        if before is None:
            del os.environ["LANGSMITH_API_KEY"]
        else:
            os.environ["LANGSMITH_API_KEY"] = before
        forget()


def _serve(
    pool: ModelPool, store: TraceStore, server: LangSmithServer, console: Console
) -> list[tuple[str, str, str, str]]:
    """Trace id, question, answer and right answer of each request."""
    builder = StateGraph(MessagesState)
    asked = []
    client = Client(api_url=server.url, api_key=KEY)
    with Recorder(store, project=PROJECT) as recorder:
        builder.add_node("model", XRouterNode(pool, policy=RandomPolicy(7), traces=recorder))
        builder.add_edge(START, "model")
        builder.add_edge("model", END)
        app = builder.compile(name="support_bot")
        with tracing_context(enabled=True, client=client, project_name=PROJECT, tags=["demo"]):
            for turn in range(_ROUNDS):
                for question, right, kind in QUESTIONS:
                    metadata = {"task": kind, "user_id": f"user-{turn}"}
                    state = app.invoke(
                        {"messages": [HumanMessage(question)]},
                        {"metadata": metadata, "callbacks": [recorder]},
                    )
                    message = state["messages"][-1]
                    trace_id = message.response_metadata["xrouter"]["trace_id"]
                    asked.append((trace_id, question, str(message.text), right))
        client.flush(10)
        client.cleanup()
    there = {run["trace_id"] for run in server.runs.values()}
    counts = store.counts()
    console.print(
        f"   {len(asked)} requests; LangSmith has {len(there)} traces with {len(server.runs)} runs,"
        f" the local store {counts['traces']} with {counts['runs']}"
    )
    return asked


def _say(
    store: TraceStore,
    langsmith: LangSmith,
    asked: list[tuple[str, str, str, str]],
    console: Console,
) -> None:
    writer = FeedbackWriter(store, langsmith, PROJECT)
    liked = 0
    for trace_id, _, answer, right in asked:
        good = re.search(rf"\b{right}\b", answer) is not None
        liked += good
        writer.record_feedback(trace_id, "liked", float(good), feedback_id=f"liked-{trace_id}")
    judged = asked[0][0]
    writer.record_feedback(judged, "tone", 0.123456789, comment="exact in both places")
    console.print(f"   {len(asked)} thumbs, {liked} of them up, and one score of 0.123456789")


def _late(
    store: TraceStore,
    langsmith: LangSmith,
    asked: list[tuple[str, str, str, str]],
    console: Console,
) -> None:
    writer = FeedbackWriter(store, langsmith, PROJECT)
    writer.record_feedback(asked[-1][0], "complaint", 1.0, comment="too slow")
    console.print("   one complaint on an old request")


def _pull(store: TraceStore, langsmith: LangSmith, pool: ModelPool) -> PullSummary:
    since = datetime.now(UTC) - timedelta(days=7)
    return pull(PROJECT, store, PullOptions(since=since, pool=pool), langsmith=langsmith)


def _tell(summary: PullSummary, console: Console) -> None:
    costs = summary.costs
    console.print(
        f"   {summary.traces} traces, {summary.runs} runs ({summary.new_runs} new), "
        f"{summary.routes} routes, {summary.feedback} feedback ({summary.new_feedback} new); "
        f"{summary.requests} requests through API {summary.api}"
    )
    wrong = ", ".join(f"{count} of {model}" for model, count in costs.by_model.items())
    console.print(
        f"   costs recomputed: {costs.agree} calls agree with LangSmith's own within 1 %, "
        f"{costs.disagree} do not ({wrong}): {costs.ours_usd:.8f} USD by our cards, "
        f"{costs.langsmith_usd:.8f} USD there"
    )


def _compare(recorded: TraceStore, pulled: TraceStore, console: Console) -> list[Any]:
    from xrouter_lg.episodes.extract import episodes

    both = [
        {
            episode.run_id: episode
            for trace in store.iter_traces()
            for episode in episodes(trace.runs, trace.feedback)
        }
        for store in (recorded, pulled)
    ]
    assert both[0], "there must be episodes"
    assert both[0] == both[1], "the two sources must give the same episodes"
    exact = [
        said["score"]
        for episode in both[1].values()
        for said in episode.feedback
        if said["key"] == "tone"
    ]
    console.print(
        f"   {len(both[0])} episodes from the recorder, {len(both[1])} from LangSmith: equal in "
        f"every field. The exact score came back: {exact}"
    )
    return list(both[1].values())


def _outcomes(store: TraceStore, folder: Path, console: Console) -> None:
    from xrouter_lg.episodes.to_table import outcomes_from_store
    from xrouter_lg.outcomes import OutcomeTable
    from xrouter_lg.verifiers.feedback import Feedback
    from xrouter_lg.verifiers.grading import Scoring

    scoring = Scoring(feedback=(Feedback(keys="liked"),))
    report = outcomes_from_store(store, folder / "outcomes", scoring=scoring)
    summary = OutcomeTable.load(folder / "outcomes").summary()
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("model", "outcomes", "mean score", "mean USD", "share of prompts"):
        table.add_column(name, justify="left" if name == "model" else "right")
    for row in sorted(summary.models.to_dicts(), key=lambda row: str(row["model"])):
        table.add_row(
            row["model"],
            str(row["n"]),
            f"{row['mean_score']:.3f}",
            f"{row['mean_cost_usd']:.3g}",
            f"{row['coverage']:.0%}",
        )
    console.print(
        f"   {report.outcomes} outcomes of {report.prompts} prompts, {report.scored} scored by "
        f"feedback, {report.unpriced} without a known cost"
    )
    console.print(table)


def _experiment(
    found: list[Any], langsmith: LangSmith, server: LangSmithServer, console: Console
) -> None:
    newest = {str(episode.messages[-1]["content"]): episode for episode in found}
    results = [
        Result(
            key=question,
            prompt=question,
            model=str(episode.route),
            response=episode.answer,
            scores={said["key"]: said["score"] for said in episode.feedback},
        )
        for question, episode in sorted(newest.items())
    ]
    for _ in range(2):
        summary = push_experiment(
            results, dataset="support questions", experiment="random policy", langsmith=langsmith
        )
        console.print(
            f"   {summary.examples} examples ({summary.new_examples} new), {summary.new_runs} new "
            f"runs, {summary.new_scores} new scores in {summary.experiment!r}"
        )
    runs = server.query({"session": [server.session("random policy")["id"]]})
    assert len(runs) == len(results) == len(server.examples), "pushing twice must double nothing"
