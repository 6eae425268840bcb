"""Which of a trace's episodes a feedback speaks of."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from xrouter_lg.episodes.episode import Episode
from xrouter_lg.episodes.runs import ancestors_of, last_answer
from xrouter_lg.said import Run, metadata_of

STRAY = "on a trace that is not there"
OF_NONE = "on a request that is not read"
OF_SEVERAL = "on several requests together"


def with_feedback(
    found: Sequence[Episode],
    feedback: Sequence[Mapping[str, Any]],
    runs: Sequence[Run],
    lost: Counter[str],
) -> Iterator[Episode]:
    """Episodes of one trace with what was said of them. ``lost`` counts what speaks of no answer,
    by reason."""
    by_id = {run["id"]: run for run in runs}
    said: dict[str, list[dict[str, Any]]] = {episode.run_id: [] for episode in found}
    for entry in feedback:
        on = by_id.get(entry["run_id"] or "")
        meant = _meant(found, on, by_id)
        if not meant:
            lost[OF_NONE] += 1
        elif all(about["about"] == "trace" for _, about in meant):
            lost[OF_SEVERAL] += 1
        for episode, about in meant:
            kept = {k: v for k, v in entry.items() if k not in ("run_id", "trace_id", "created_at")}
            said[episode.run_id].append({**kept, **about})
    for episode in found:
        yield dataclasses.replace(episode, feedback=tuple(said[episode.run_id]))


def _meant(
    found: Sequence[Episode], on: Run | None, by_id: Mapping[str, Run]
) -> list[tuple[Episode, dict[str, Any]]]:
    """The episodes that feedback on a run speaks of: the one it stands in; else those below it,
    and of several it means the one whose answer that run gave back."""
    if on is not None:
        path = {*ancestors_of(on), on["id"]}
        inside = [episode for episode in found if episode.run_id in path]
        if inside:
            call_id = metadata_of(on).get("xrouter_call_id")
            about = {"about": "call", "call_id": call_id} if call_id else {"about": "answer"}
            return [(inside[-1], about)]
        below = [e for e in found if on["id"] in ancestors_of(by_id[e.run_id])]
    else:
        below = list(found)  # on a run that was not recorded
    if len(below) == 1:
        return [(below[0], {"about": "answer"})]
    if not below and len(found) == 1:
        return [(found[0], {"about": "answer"})]  # on a neighbour, in a trace of one request
    given = None if on is None else last_answer(on.get("outputs"))
    return [
        (e, {"about": "answer" if given is not None and e.answer == given else "trace"})
        for e in below
    ]
