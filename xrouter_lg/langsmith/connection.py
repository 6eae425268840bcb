"""The real LangSmith client, used politely: one request at a time, paced, patient, typed errors."""

from __future__ import annotations

import contextlib
import difflib
import itertools
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit
from uuid import UUID

from langsmith import Client
from langsmith.schemas import Feedback
from urllib3.util import Retry

from xrouter_lg.json_text import shown
from xrouter_lg.langsmith.errors import (
    AccessDeniedError,
    LangSmithRefusedError,
    NoKeyError,
    ProjectNotFoundError,
)
from xrouter_lg.langsmith.polite import KeptKeySession, Patience, RateLimit, unreadable
from xrouter_lg.langsmith.runs import FirstApi, RunPage, RunQuery, SecondApi
from xrouter_lg.langsmith.traces import flaw_of

T = TypeVar("T")

PAGE_SIZE = 200
"""Runs per request of the second API: small enough for runs of 50 kB. It allows 1000."""

_IDLE_PAGES = 50
"""Pages with nothing new in succession after which a query is taken to have no end."""

_FIRST_API = (14, 10.0)
_SECOND_API = (250, 10.0)
_OTHER = (300, 10.0)
"""Requests per seconds: what LangSmith documents (15 and 300 per 10 s, 2,000 per minute), less a
little for whoever else uses the key."""


class Project(NamedTuple):
    """A tracing project."""

    id: str
    name: str


class LangSmith:
    """LangSmith as this integration uses it. Close it, or use it with ``with``.

    Without a ``client`` one is made for ``endpoint`` (else ``LANGSMITH_ENDPOINT``, else the
    hosted service) with the key of ``LANGSMITH_API_KEY`` or of the client's own profile. Runs are
    read through the second API; where the server or the installed client does not have it, through
    the first.

    Raises:
        NoKeyError: there is no key, and the endpoint is not on this machine.
    """

    def __init__(
        self,
        client: Client | None = None,
        *,
        endpoint: str | None = None,
        patience: Patience | None = None,
        page_size: int = PAGE_SIZE,
    ) -> None:
        self.client = _connect(endpoint) if client is None else client
        self.endpoint = str(self.client.api_url).rstrip("/")
        self.patience = patience or Patience()
        if not 1 <= page_size <= 1000:
            raise LangSmithRefusedError(
                f"page_size is {page_size}; LangSmith takes 1 to 1000 runs a page"
            )
        self.page_size = page_size
        self.requests = 0
        """How many were made, repeats included."""
        self.left_out: dict[str, str] = {}
        """Runs that nothing can be made of, by their id (shown), and why."""
        self._other = RateLimit(*_OTHER)
        self._runs: FirstApi | SecondApi | None = None
        self._pace: RateLimit | None = None

    def __enter__(self) -> LangSmith:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        if isinstance(self._runs, SecondApi):
            self._runs.close()

    @property
    def api(self) -> str:
        """Which API runs are read through: ``v2``, or ``v1`` where that is all there is."""
        return "v1" if isinstance(self._runs, FirstApi) else "v2"

    # --- projects --------------------------------------------------------------------------

    def project(self, name: str) -> Project:
        """A project by its name or id.

        Raises:
            ProjectNotFoundError: there is none; names those that come near.
        """
        wanted = {"project_id": name} if _is_uuid(name) else {"project_name": name}
        try:
            found = self.ask(lambda: self.client.read_project(**wanted), what=f"project {name!r}")
        except LangSmithRefusedError as error:
            if error.status not in (404, 422):
                raise
            raise ProjectNotFoundError(self._no_project(name)) from None
        return Project(str(found.id), str(found.name))

    def _no_project(self, name: str) -> str:
        listed: list[str] = []
        with contextlib.suppress(LangSmithRefusedError, AccessDeniedError):
            projects = self.ask(
                lambda: list(itertools.islice(self.client.list_projects(limit=100), 100)),
                what="the list of projects",
            )
            listed = [str(project.name) for project in projects]
        near = difflib.get_close_matches(name, listed, n=5, cutoff=0.5)
        near += [n for n in listed if name.lower() in n.lower() and n not in near]
        said = f"there is no project {name!r} at {self.endpoint} for this key."
        if near:
            return f"{said} Did you mean {', '.join(map(repr, near[:5]))}?"
        if listed:
            return f"{said} There are {', '.join(map(repr, listed[:8]))}."
        return f"{said} The workspace holds none: is LANGSMITH_WORKSPACE_ID right?"

    # --- runs ------------------------------------------------------------------------------

    def pages(self, query: RunQuery) -> Iterator[list[dict[str, Any]]]:
        """Pages of runs, as plain dicts in LangSmith's run schema. What is no run is left out
        (:attr:`left_out`).

        Raises:
            UnreadableAnswerError: the pages never end.
        """
        cursor: str | None = None
        pages = _Pages("runs", self.endpoint)
        while True:
            page = self._page(query, cursor)
            runs = [run for run in page.runs if self._is_run(run)]
            pages.saw(str(run["id"]) for run in runs)
            yield runs
            cursor = page.cursor
            if cursor is None:
                return
            pages.goes_on(cursor)

    def _is_run(self, run: Any) -> bool:
        flaw = flaw_of(run)
        if flaw:
            self.left_out[shown(run.get("id") if isinstance(run, dict) else run)] = flaw
        return not flaw

    def runs(self, query: RunQuery) -> list[dict[str, Any]]:
        """All runs of a query."""
        return list(itertools.chain.from_iterable(self.pages(query)))

    def _page(self, query: RunQuery, cursor: str | None) -> RunPage:
        if self._runs is None:
            self._use(SecondApi.of(self.client) or FirstApi(self.client))
        runs = self._runs
        assert runs is not None
        try:
            return self.ask(
                lambda: runs.page(query, cursor, self.page_size), what="runs", pace=self._pace
            )
        except LangSmithRefusedError as error:
            # Cursors of one API mean nothing to the other, so only before the first page.
            absent = error.status in (404, 405, 501) and cursor is None
            if not absent or isinstance(runs, FirstApi):
                raise
        runs.close()
        self._use(FirstApi(self.client))
        return self._page(query, cursor)

    def _use(self, api: FirstApi | SecondApi) -> None:
        self._runs = api
        self._pace = RateLimit(*(_FIRST_API if isinstance(api, FirstApi) else _SECOND_API))

    # --- feedback --------------------------------------------------------------------------

    def feedback(
        self,
        project: Project,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        run_ids: Sequence[str] | None = None,
    ) -> Iterator[list[Feedback]]:
        """Pages of a project's feedback by its creation, or of feedback on some runs."""
        wanted: dict[str, Any] = {"session": [project.id]} if run_ids is None else {}
        if since is not None:
            wanted["min_created_at"] = since.isoformat()
        if until is not None:
            wanted["max_created_at"] = until.isoformat()

        def read(offset: int) -> list[Feedback]:
            found = self.client.list_feedback(run_ids=run_ids, limit=100, offset=offset, **wanted)
            return list(itertools.islice(found, 100))

        offset = 0
        pages = _Pages("feedback", self.endpoint, idle=1)
        while True:
            page = self.ask(partial(read, offset), what="feedback")
            pages.saw(str(entry.id) for entry in page)
            if page:
                yield page
            if len(page) < 100:
                return
            offset += len(page)
            pages.goes_on(str(offset))

    # --- requests --------------------------------------------------------------------------

    def ask(self, request: Callable[[], T], *, what: str, pace: RateLimit | None = None) -> T:
        """Make a request of the client's: paced, repeated while it may help, errors typed."""

        def paced() -> T:
            (pace or self._other).wait()
            self.requests += 1
            return request()

        return self.patience.call(paced, what=what, where=self.endpoint)


class _Pages:
    """Sees to it that the pages of one query come to an end."""

    def __init__(self, what: str, where: str, *, idle: int = _IDLE_PAGES) -> None:
        self._what, self._where, self._most = what, where, idle
        self._ids: set[str] = set()
        self._cursors: set[str] = set()
        self._idle = 0

    def saw(self, ids: Iterable[str]) -> None:
        """Note what a page holds."""
        before = len(self._ids)
        self._ids.update(ids)
        self._idle = 0 if len(self._ids) > before else self._idle + 1

    def goes_on(self, cursor: str) -> None:
        """Note that there is a next page.

        Raises:
            UnreadableAnswerError: it was asked for before, or nothing new has come for long.
        """
        if str(cursor) in self._cursors or self._idle >= self._most:
            raise unreadable(self._what, self._where, "its pages repeat themselves without an end")
        self._cursors.add(str(cursor))


def _connect(endpoint: str | None) -> Client:
    client = _client(endpoint)
    has_key = bool(client.api_key) or getattr(client, "_profile_auth", None) is not None
    if has_key:
        return client
    if (urlsplit(str(client.api_url)).hostname or "") in ("localhost", "127.0.0.1", "::1"):
        # A server on this machine may need none, but the second API's client insists on one.
        return _client(endpoint, api_key="none-needed")
    raise NoKeyError(
        f"no API key for {client.api_url}: LANGSMITH_API_KEY is "
        f"{'empty' if 'LANGSMITH_API_KEY' in os.environ else 'not set'}. Create one under "
        "Settings → API Keys and export it, or name your own installation with --endpoint or "
        "LANGSMITH_ENDPOINT."
    )


def _client(endpoint: str | None, **options: Any) -> Client:
    with warnings.catch_warnings():
        # Our own error says it better.
        warnings.filterwarnings("ignore", message="API key must be provided")
        return Client(
            api_url=endpoint,
            auto_batch_tracing=False,  # no background thread: nothing is traced here
            retry_config=Retry(total=0),  # patience is kept in one place
            session=KeptKeySession(),
            **options,
        )


def _is_uuid(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True
