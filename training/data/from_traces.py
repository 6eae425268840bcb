"""From recorded traces to the outcome table that a run learns from.

``traces=sqlite:///traces.db`` (any URL or path of a trace store) or ``traces=langsmith:PROJECT``
take the place of ``outcomes=FOLDER``. A LangSmith project is first pulled into a store in the run
folder; a later pull fetches what is new. The table goes to ``outcomes`` in the run folder and is
made again when the store holds more, or when answers are to be scored otherwise.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from training.config.run import RunConfig
from xrouter_lg.errors import ConfigurationError, XRouterError
from xrouter_lg.files import write_json

_LANGSMITH = "langsmith:"


def collect(
    config: RunConfig, folder: Path, note: Callable[[str], None] = lambda text: None
) -> RunConfig:
    """The run with ``outcomes`` set to the table made of its traces in ``folder``; the run itself
    where it names no traces.

    Raises:
        ConfigurationError: both or neither were given, nothing can be read there, or no trace
            gives an outcome.
    """
    if not config.traces:
        return config
    if config.outcomes:
        raise ConfigurationError(
            f"both traces={config.traces!r} and outcomes={config.outcomes!r} were given; a run "
            "learns from one of them"
        )
    from xrouter_lg.episodes.scoring import feedback_verifiers, open_scoring
    from xrouter_lg.episodes.to_table import outcomes_from_store
    from xrouter_lg.pool.pool import ModelPool
    from xrouter_lg.tracing.store.trace_store import TraceStore

    how, target = config.collect, folder / "outcomes"
    try:
        scoring = open_scoring(
            target,
            how.verifiers or None,
            references=how.references or None,
            feedback=feedback_verifiers(how.feedback_keys),
        )
        # Prices for traces that no router recorded.
        pool = ModelPool.from_yaml(config.pool, reload=False) if config.pool else None
        with scoring as judges, _store(config, folder, note, TraceStore) as store:
            key = _key(config, store.counts())
            mark = folder / "collected.json"
            if mark.is_file() and json.loads(mark.read_text())["key"] == key:
                return dataclasses.replace(config, outcomes=str(target))
            project = how.project or _project(config.traces) or None
            found = outcomes_from_store(
                store,
                target,
                project=project,
                pool=pool,
                scoring=judges,
                progress=lambda what, done, total: (
                    note(f"collect: {done} {what}") if done % 500 == 0 else None
                ),
            )
    except (XRouterError, ValueError, RuntimeError, OSError) as error:
        raise ConfigurationError(f"traces={config.traces!r}: {error}") from error
    note(f"collect: {json.dumps(found.to_dict())}")
    write_json(mark, {"key": key, "report": found.to_dict()})
    return dataclasses.replace(config, outcomes=str(target))


def _store(
    config: RunConfig, folder: Path, note: Callable[[str], None], store_of: Callable[..., Any]
) -> Any:
    project = _project(config.traces)
    if project is None:
        # A path that is no store yet must not be made by looking at it.
        return store_of(config.traces, create=False)
    from xrouter_lg.langsmith.connection import LangSmith
    from xrouter_lg.langsmith.options import PullOptions
    from xrouter_lg.langsmith.pull import pull

    folder.mkdir(parents=True, exist_ok=True)
    store = store_of(folder / "traces.db")
    since = datetime.now(UTC) - timedelta(days=config.collect.days)
    note(f"collect: pulling {project!r} from LangSmith")
    try:
        with LangSmith() as langsmith:
            pull(project, store, PullOptions(since=since), langsmith=langsmith)
    except BaseException:
        store.close()
        raise
    return store


def _project(traces: str) -> str | None:
    """The project of a ``langsmith:`` source, None for a store."""
    if not traces.startswith(_LANGSMITH):
        return None
    name = traces.removeprefix(_LANGSMITH).strip()
    if not name:
        raise ConfigurationError("traces='langsmith:' names no project; write langsmith:PROJECT")
    return name


def _key(config: RunConfig, counts: dict[str, int]) -> str:
    """What a table depends on: the store and how much it holds, and how answers are scored."""
    files = [
        Path(name).read_bytes()
        for name in (config.collect.verifiers, config.collect.references, config.pool)
        if name
    ]
    digest = hashlib.sha256(
        json.dumps([config.traces, counts, dataclasses.asdict(config.collect)]).encode()
    )
    for data in files:
        digest.update(data)
    return digest.hexdigest()[:16]
