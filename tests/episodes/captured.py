"""Requests captured twice at once: by the recorder, and by LangSmith's client over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import HumanMessage, SystemMessage
from langsmith import Client, tracing_context

from tests.support.langsmith_server import LangSmithServer
from xrouter_lg import Recorder
from xrouter_lg.episodes.episode import Episode
from xrouter_lg.episodes.extract import ExtractReport, episodes


class Captured:
    """A recorder and a LangSmith project named ``p``, filled by the same requests."""

    def __init__(self, folder: Path, server: LangSmithServer, client: Client) -> None:
        self.folder, self.server, self.client = folder, server, client
        self.recorder = Recorder(folder / "t.db", project="p")
        self.report = ExtractReport()

    @property
    def store(self) -> Any:
        return self.recorder.store

    def ask(self, graph: Any, text: Any = "hi", *, input: Any = None, **config: Any) -> Any:
        given = input or {"messages": [SystemMessage("be brief"), HumanMessage(text)]}
        try:
            with tracing_context(enabled=True, client=self.client, project_name="p"):
                return graph.invoke(given, {"callbacks": [self.recorder], **config})
        finally:
            self.flush()

    def flush(self) -> None:
        self.client.flush()
        self.recorder.flush()

    def say(self, **feedback: Any) -> None:
        """The same feedback in both places."""
        self.store.record_feedback(**feedback)
        session = self.server.session("p")["id"]
        self.client.create_feedback(session_id=session, **feedback)
        self.flush()

    def ours(self, **options: Any) -> list[Episode]:
        self.report = ExtractReport()
        return [
            episode
            for trace in self.store.iter_traces()
            for episode in episodes(trace.runs, trace.feedback, report=self.report, **options)
        ]

    def theirs(self, **options: Any) -> list[Episode]:
        """Through ``list_runs`` and ``list_feedback``."""
        with pytest.warns(DeprecationWarning, match="list_runs"):
            runs = list(self.client.list_runs(project_name="p"))
        feedback = list(self.client.list_feedback(run_ids=[run.id for run in runs]))
        self.report = ExtractReport()
        return list(episodes(runs, feedback, project="p", report=self.report, **options))

    async def by_second_api(self, **options: Any) -> list[Episode]:
        wanted = ["ID", "TRACE_ID", "PARENT_RUN_IDS", "DOTTED_ORDER", "NAME", "RUN_TYPE", "EXTRA"]
        wanted += ["INPUTS", "OUTPUTS", "TAGS", "START_TIME", "END_TIME", "ERROR"]
        project = self.server.session("p")["id"]
        found = self.client.runs.query(project_ids=[project], selects=wanted)
        runs = [run async for run in found]
        await self.client.runs._client.close()  # there is no public way to close its connections
        self.report = ExtractReport()
        return list(episodes(runs, project="p", report=self.report, **options))
