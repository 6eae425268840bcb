"""Episodes to an outcome table: what each card was asked, what it scored and what it cost.

One outcome per prompt and card. A request gives an outcome of every card that answered in it, at
that call's own cost; the router's cost is no outcome's. Feedback speaks of the answer that was
returned, so only that card's outcome is scored by it; a verifier can score all of them. The same
prompt asked of the same card again: scores and costs are averaged, the newest answer is kept.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from training.episodes import Episode, EpisodeCall, ExtractReport, episodes
from training.outcomes import OutcomeTable
from training.outcomes.schema import KEY, OutcomeError
from training.verifiers import Suite
from training.verifiers.feedback import Feedback
from xrouter_lg.pool import ModelPool
from xrouter_lg.tracing.store import TraceStore

DEFAULT_TASK = "traces"


@dataclass
class BuildReport:
    """What became of the traces."""

    extracted: ExtractReport = field(default_factory=ExtractReport)
    prompts: int = 0
    outcomes: int = 0
    scored: int = 0
    unpriced: int = 0
    """Outcomes whose cost is unknown."""
    unscored: Counter[str] = field(default_factory=Counter)
    """Outcomes without a score, by reason."""

    def to_dict(self) -> dict[str, Any]:
        return {
            "traces": self.extracted.traces,
            "episodes": self.extracted.episodes,
            "skipped": dict(self.extracted.skipped),
            "prompts": self.prompts,
            "outcomes": self.outcomes,
            "scored": self.scored,
            "unpriced": self.unpriced,
            "unscored": dict(self.unscored),
        }


@dataclass
class _Seen:
    """Everything known of one prompt × card."""

    scores: list[float] = field(default_factory=list)
    costs: list[float | None] = field(default_factory=list)
    inputs: list[int] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    newest: tuple[float, str] = (float("-inf"), "")
    scored_by: str | None = None


def outcomes_from_store(
    store: TraceStore,
    folder: str | Path,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    project: str | None = None,
    pool: ModelPool | None = None,
    suite: Suite | None = None,
    references: Mapping[str, Any] | None = None,
    feedback_keys: Sequence[str] = (),
    progress: Callable[[int], None] | None = None,
) -> BuildReport:
    """Write the outcome table of a store's traces to ``folder``; see :func:`build_outcomes`.

    Raises:
        OutcomeError: no trace gives an outcome; the message says why.
    """
    report = BuildReport()

    def read() -> Iterable[Episode]:
        for trace in store.iter_traces(since=since, until=until, project=project):
            yield from episodes(trace.runs, trace.feedback, pool=pool, report=report.extracted)
            if progress is not None:
                progress(report.extracted.traces)

    table = build_outcomes(
        read(), suite=suite, references=references, feedback_keys=feedback_keys, report=report
    )
    table.write(folder)
    return report


def build_outcomes(
    found: Iterable[Episode],
    *,
    suite: Suite | None = None,
    references: Mapping[str, Any] | None = None,
    feedback_keys: Sequence[str] = (),
    report: BuildReport | None = None,
) -> OutcomeTable:
    """The outcome table of episodes.

    ``suite`` scores answers by the verifier that fits a prompt's source and task, against
    ``references`` (by prompt id, or by the prompt's text) or else the feedback's correction.
    ``feedback_keys`` score what no verifier does. Source is the project, task the trace's.

    Raises:
        OutcomeError: no episode, or none with an answer; the message says what was skipped.
    """
    counted = report or BuildReport()
    judge = Feedback(keys=tuple(feedback_keys)) if feedback_keys else None
    prompts: dict[tuple[str, str, str], dict[str, Any]] = {}
    seen: dict[tuple[str, str, str, str], _Seen] = {}
    for episode in found:
        key = (episode.project or "traces", episode.task or DEFAULT_TASK, prompt_id(episode))
        row = prompts.get(key)
        if row is None:
            row = prompts[key] = _prompt_row(key, episode, references or {})
        for call in episode.calls:
            if call.answer is not None:
                entry = seen.setdefault((*key, call.card), _Seen())
                _add(entry, episode, call, row, suite, judge, counted)
    if not seen:
        skipped = ", ".join(f"{n} × {why}" for why, n in counted.extracted.skipped.items())
        raise OutcomeError(
            f"no outcome in {counted.extracted.traces} traces"
            f"{f' ({skipped})' if skipped else ''}; record requests first, or name another "
            "project or a longer time"
        )
    rows = [_outcome_row(key, entry) for key, entry in seen.items()]
    counted.prompts, counted.outcomes = len(prompts), len(rows)
    counted.scored = sum(row["score"] is not None for row in rows)
    counted.unpriced = sum(row["cost_usd"] is None for row in rows)
    return OutcomeTable.from_rows(rows, prompts.values())


def score_table(
    table: OutcomeTable,
    suite: Suite,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[OutcomeTable, Counter[str]]:
    """Fill the empty scores of a table that holds answers; what could not be judged, by reason.

    Scores that are there already are kept. A verifier's failure leaves the score empty.
    """
    prompts = {
        tuple(row[name] for name in KEY): row
        for row in table.prompts.collect().iter_rows(named=True)
    }
    rows = list(table.outcomes.collect().iter_rows(named=True))
    reasons: Counter[str] = Counter()
    for number, row in enumerate(rows):
        if row["score"] is None:
            key = tuple(row[name] for name in KEY)
            prompt = prompts.get(key, {})
            meta = json.loads(prompt.get("meta") or "{}")
            score, said = _verified(suite, key, row.get("response"), prompt.get("reference"), meta)
            if score is None:
                reasons[said] += 1
            row.update(score=score, scored_by=said if score is not None else row.get("scored_by"))
        if progress is not None:
            progress(number + 1, len(rows))
    return OutcomeTable.from_rows(rows, prompts.values()), reasons


def prompt_id(episode: Episode) -> str:
    """Sixteen hex digits of the conversation: roles, texts and tool calls."""
    data = json.dumps(episode.messages, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.blake2b(data.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def read_references(path: str | Path) -> dict[str, Any]:
    """References by prompt id or prompt text, from JSON lines with ``prompt_id`` or ``prompt``, and
    ``reference``.

    Raises:
        OutcomeError: no such file, or a line without these; names it.
    """
    found: dict[str, Any] = {}
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise OutcomeError(f"{path}: can't be read: {error}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            key = row.get("prompt_id") or row["prompt"]
            found[str(key)] = row["reference"]
        except (json.JSONDecodeError, KeyError, AttributeError) as error:
            raise OutcomeError(
                f"{path}, line {number}: needs prompt_id or prompt, and reference ({error!r})"
            ) from error
    return found


def _prompt_row(
    key: tuple[str, str, str], episode: Episode, references: Mapping[str, Any]
) -> dict[str, Any]:
    text = _text_of(episode.messages)
    reference = references.get(key[2], references.get(text))
    if reference is None:
        corrections = [e["correction"] for e in episode.feedback if e.get("correction") is not None]
        reference = corrections[-1] if corrections else None
    # A lone question is its text; anything more has to be asked again as it was.
    alone = len(episode.messages) == 1 and isinstance(episode.messages[0]["content"], str)
    meta = {} if alone else {"messages": list(episode.messages)}
    return {
        **dict(zip(KEY, key, strict=True)),
        "prompt": text,
        "category": episode.task or DEFAULT_TASK,
        "reference": reference
        if reference is None or isinstance(reference, str)
        else _json(reference),
        "meta": _json(meta) if meta else None,
    }


def _text_of(messages: Sequence[Mapping[str, Any]]) -> str:
    """What a policy reads: the last message's text."""
    content = messages[-1]["content"]
    if isinstance(content, str):
        return content
    blocks = content if isinstance(content, list | tuple) else []
    texts = [b if isinstance(b, str) else b.get("text", "") for b in blocks]
    return "".join(text for text in texts if isinstance(text, str))


def _add(
    entry: _Seen,
    episode: Episode,
    call: EpisodeCall,
    prompt: Mapping[str, Any],
    suite: Suite | None,
    judge: Feedback | None,
    report: BuildReport,
) -> None:
    answer = call.answer or ""
    returned = call.card == episode.route and answer == (episode.answer or "")
    meta = {"feedback": list(episode.feedback) if returned else []}
    score, said = None, "no verifier or feedback key was named"
    if suite is not None:
        key = tuple(str(prompt[name]) for name in KEY)
        score, said = _verified(suite, key, answer, prompt["reference"], meta)
    if score is None and judge is not None:
        verdict = judge(answer, None, meta=meta)
        score, said = verdict.score, "feedback" if verdict.score is not None else verdict.reason
    if score is None:
        report.unscored[said] += 1
    else:
        entry.scores.append(score)
        entry.scored_by = said
    entry.costs.append(None if call.cost_usd is None else float(call.cost_usd))
    if call.usage is not None:
        entry.inputs.append(call.usage["input_tokens"])
        entry.outputs.append(call.usage["output_tokens"])
    entry.seconds.append(call.latency_s)
    entry.newest = max(entry.newest, (episode.started_at, answer))


def _verified(
    suite: Suite, key: Sequence[str], answer: str | None, reference: Any, meta: Mapping[str, Any]
) -> tuple[float | None, str]:
    """Score and the verifier's name, or None and the reason."""
    verifier = suite.verifier_for(key[0], key[1])
    if verifier is None:
        return None, f"no verifier for {key[0]}/{key[1]}"
    if answer is None:
        return None, "no answer was recorded"
    verdict = verifier(answer, reference, meta=meta)
    return (verdict.score, verifier.name if verdict.score is not None else verdict.reason)


def _outcome_row(key: tuple[str, str, str, str], entry: _Seen) -> dict[str, Any]:
    known = [cost for cost in entry.costs if cost is not None]
    return {
        **dict(zip((*KEY, "model"), key, strict=True)),
        "score": _mean(entry.scores),
        "input_tokens": None if not entry.inputs else round(_mean(entry.inputs) or 0),
        "output_tokens": None if not entry.outputs else round(_mean(entry.outputs) or 0),
        # One unknown cost makes the mean unknown: what is known may be the cheap half.
        "cost_usd": _mean(known) if len(known) == len(entry.costs) else None,
        "latency_s": _mean(entry.seconds),
        "response": entry.newest[1],
        "scored_by": entry.scored_by,
    }


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
