"""Verdicts on answers: each made, and paid for, once.

:class:`Verdicts` is where all of them are made and kept, whether answers come from traces, from a
table, from a backfill or from training: a verdict is written to a file the moment it is there, so
that an interrupted run, or the next one over more answers, judges only what is new. A verifier's
failure is no score: it is kept with its reason, and whoever asks decides whether to try again.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO

from xrouter_lg.calls.ledger import totals
from xrouter_lg.outcomes.conversation import meta_of
from xrouter_lg.outcomes.schema import OutcomeError, normalise_prompt
from xrouter_lg.types import Charge
from xrouter_lg.verifiers import Suite, SupportsVerify
from xrouter_lg.verifiers.feedback import Feedback

VERDICTS_FILE = "verdicts.jsonl"
"""What verdicts are kept in, beside the answers that they are about."""
NO_ANSWER = "no answer was recorded"
_NOT_OF_THE_ANSWER = ("feedback", "messages", "tools", "tool_options", "reference")
"""What a prompt's ``meta`` holds for asking again; verifiers don't read it."""
_BATCH = 256
_REASONS, _REASON_CHARS = 20, 160

Progress = Callable[[int, int], None]
"""Called with how many answers are done, and of how many."""


@dataclass(frozen=True, slots=True)
class Submission:
    """An answer handed in for a verdict."""

    key: tuple[str, ...]
    """source, task, prompt_id."""
    text: str | None
    prompt: str
    reference: Any = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    feedback: Sequence[Mapping[str, Any]] = ()
    """What was said of this very answer."""
    call: str = ""
    """Which call gave it, where that is known: the same text from two calls is judged twice."""


@dataclass(frozen=True, slots=True)
class Grade:
    """A score and the verifier's name; without a score the reason."""

    score: float | None
    by: str | None = None
    reason: str = ""
    charges: tuple[Charge, ...] = ()
    """What the verdict cost now."""

    @property
    def cost_usd(self) -> Decimal | None:
        """None where a part is unknown."""
        return totals(self.charges).total


@dataclass
class ScoreReport:
    """What became of the answers."""

    scored: int = 0
    unscored: Counter[str] = field(default_factory=Counter)
    """Answers without a score, by reason."""
    reused: int = 0
    """Verdicts that an earlier run had made."""
    cost_usd: Decimal = Decimal(0)
    """USD that verifiers paid to models."""
    unpriced: int = 0
    """Verdicts that cost something nobody knows."""

    def add(self, scored: Grade) -> None:
        if scored.score is None:
            self.unscored[scored.reason[:_REASON_CHARS]] += 1
        else:
            self.scored += 1
        if (usd := scored.cost_usd) is None:
            self.unpriced += 1
        else:
            self.cost_usd += usd

    def to_dict(self) -> dict[str, Any]:
        return {
            "scored": self.scored,
            "unscored": _most(self.unscored),
            "reused_verdicts": self.reused,
            "verifier_cost_usd": format(self.cost_usd, "f"),
            "verdicts_of_unknown_cost": self.unpriced,
        }


def _most(reasons: Counter[str]) -> dict[str, int]:
    """The most frequent reasons; a judge that quotes what it choked on has one per answer."""
    shown = dict(reasons.most_common(_REASONS))
    if rest := reasons.total() - sum(shown.values()):
        shown["other reasons"] = rest
    return shown


class Verdicts:
    """Makes verdicts and keeps them, one JSON line each; of no file (``None``) in memory.

    A verdict is on the verifier with its settings, the question, the reference, what the prompt's
    ``meta`` tells the verifier, the answer and the call that gave it; the newest counts. A line
    that a killed process left unfinished is passed over. Safe to use from several threads.
    """

    def __init__(self, path: str | Path | None) -> None:
        self.path = None if path is None else Path(path)
        self._known: dict[str, float | str] = {}
        self._lock = threading.Lock()
        self._file: BinaryIO | None = None
        if self.path is not None and self.path.exists():
            for line in self.path.read_bytes().split(b"\n"):
                try:
                    row = json.loads(line)
                    score = row["score"]
                    known = str(row["reason"]) if score is None else float(score)
                    self._known[row["id"]] = known
                except (ValueError, KeyError, TypeError):
                    continue

    def __len__(self) -> int:
        return len(self._known)

    def __enter__(self) -> Verdicts:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None

    def find(self, verifier: SupportsVerify, settings: str, of: Submission) -> Grade | None:
        """The verdict that was made before, a failure included. ``settings`` is the digest of the
        verifier's (:attr:`~xrouter_lg.verifiers.Rule.digest`)."""
        known = self._known.get(_id_of(verifier, settings, of))
        if known is None:
            return None
        if isinstance(known, str):
            return Grade(None, verifier.name, known)
        return Grade(known, verifier.name)

    def make(self, verifier: SupportsVerify, settings: str, of: Submission) -> Grade:
        """A verdict made now; it is in the file when this returns.

        Raises:
            OutcomeError: the file can't be written.
        """
        grade = judged(verifier, of)
        verdict_id = _id_of(verifier, settings, of)
        known = grade.reason if grade.score is None else grade.score
        with self._lock:
            if self._known.get(verdict_id) == known:
                return grade
            self._known[verdict_id] = known
            line = {"id": verdict_id, "score": grade.score}
            if grade.score is None:
                line["reason"] = grade.reason
            try:
                self._write(line, paid=bool(grade.charges))
            except OSError as error:
                raise OutcomeError(
                    f"the verdicts {self.path} can't be written: {error}; free some space, or "
                    "repair or move the file"
                ) from error
        return grade

    def _write(self, line: Mapping[str, Any], *, paid: bool) -> None:
        if self.path is None:
            return
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("ab")
            if self.path.stat().st_size:
                self._file.write(b"\n")  # the last line may lack its end
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()
        if paid:
            os.fsync(self._file.fileno())


def judged(verifier: SupportsVerify, of: Submission) -> Grade:
    """A verdict made now, kept nowhere."""
    meta = {"prompt": of.prompt, **_own(of.meta), "feedback": list(of.feedback)}
    verdict = verifier(of.text or "", of.reference, meta=meta)
    return Grade(verdict.score, verifier.name, verdict.reason, verdict.charges)


def _id_of(verifier: SupportsVerify, settings: str, of: Submission) -> str:
    # Feedback comes later than its answer: only the verifier that is nothing else goes by it.
    said = list(of.feedback) if isinstance(verifier, Feedback) else None
    parts = [settings, verifier.name, of.prompt, of.reference, _own(of.meta), of.text, of.call]
    data = json.dumps([*parts, said], sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.blake2b(data.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """How answers get their scores: by verifiers, and where none has a verdict by feedback."""

    suite: Suite | None = None
    feedback: tuple[Feedback, ...] = ()
    """The first one that has something to go by decides."""
    references: Mapping[str, Any] = field(default_factory=dict)
    """Right answers by prompt id or normalised prompt text; see ``read_references``."""
    concurrency: int = 4
    """Verdicts at a time."""
    verdicts: Verdicts | None = None
    """Where verdicts are kept; None makes every one anew."""

    def __post_init__(self) -> None:
        if self.concurrency < 1:
            raise OutcomeError(f"concurrency is {self.concurrency!r}; it must be at least 1")

    @property
    def grades(self) -> bool:
        """Whether there is anything that could score an answer."""
        return self.suite is not None or bool(self.feedback)

    def score(self, answers: Iterable[Submission], report: ScoreReport) -> Iterator[Grade]:
        """Grades in the order of the answers. Interrupted, it keeps the verdicts made so far."""
        with ThreadPoolExecutor(self.concurrency, "xrouter-score") as threads:
            try:
                for some in _batches(answers, _BATCH):
                    for answer, (grade, reused) in zip(
                        some, threads.map(self._verdict, some), strict=True
                    ):
                        scored = grade
                        if scored.score is None and answer.text is not None:
                            scored = self._by_feedback(answer, scored)
                        report.reused += reused
                        report.add(scored)
                        yield scored
            except BaseException:
                threads.shutdown(wait=False, cancel_futures=True)
                raise

    def _verdict(self, of: Submission) -> tuple[Grade, bool]:
        """The verifier's verdict, and whether it had been made before."""
        if of.text is None:
            return Grade(None, reason=NO_ANSWER), False
        if self.suite is None:
            return Grade(None, reason="no verifier was named"), False
        rule = self.suite.rule_for(*of.key[:2])
        if rule is None:
            return no_verifier(of.key), False
        if self.verdicts is None:
            return judged(rule.verifier, of), False
        known = self.verdicts.find(rule.verifier, rule.digest, of)
        if known is not None and known.score is not None:
            return known, True
        return self.verdicts.make(rule.verifier, rule.digest, of), False

    def said(self, of: Submission) -> float | None:
        """What users said of an answer, 0 to 1, whoever gives it its score."""
        rule = None if self.suite is None else self.suite.rule_for(*of.key[:2])
        if of.text is not None and rule is not None and isinstance(rule.verifier, Feedback):
            own = judged(rule.verifier, of).score
            if own is not None:
                return own
        return None if of.text is None else self._by_feedback(of, Grade(None)).score

    def _by_feedback(self, answer: Submission, grade: Grade) -> Grade:
        said = grade.reason
        for judge in self.feedback:
            found = judge(answer.text or "", None, meta={"feedback": list(answer.feedback)})
            if found.score is not None:
                return Grade(found.score, judge.name, "", grade.charges)
            # Why the verifier failed says more than that nobody gave feedback.
            said = said if self.suite is not None else found.reason
        return Grade(None, None, said, grade.charges)


def no_verifier(key: Sequence[str]) -> Grade:
    """What an answer gets that no verifier is for."""
    return Grade(None, reason=f"no verifier is for {key[0]}/{key[1]}")


def reference_of(references: Mapping[str, Any], prompt_id: str, prompt: str) -> Any:
    """The right answer of a prompt, by id or by text; None where there is none."""
    found = references.get(prompt_id)
    if found is None and references:
        found = references.get(normalise_prompt(prompt))
    return found


def asked_of(row: Mapping[str, Any], references: Mapping[str, Any] | None = None) -> Submission:
    """What a row of outcomes joined with its prompt gives to judge. A reference that is no text
    (a list of right answers, tests) stands in ``meta`` as it is."""
    prompt, meta = row["prompt"] or "", meta_of(row["meta"])
    reference = reference_of(references or {}, row["prompt_id"], prompt)
    if reference is None:
        reference = meta.get("reference", row["reference"])
    said = row.get("said")
    return Submission(
        key=(row["source"], row["task"], row["prompt_id"]),
        text=row["response"],
        prompt=prompt,
        reference=reference,
        meta=meta,
        feedback=json.loads(said) if said else (),
    )


def _own(meta: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in meta.items() if name not in _NOT_OF_THE_ANSWER}


def _batches(answers: Iterable[Submission], size: int) -> Iterator[list[Submission]]:
    some: list[Submission] = []
    for answer in answers:
        some.append(answer)
        if len(some) == size:
            yield some
            some = []
    if some:
        yield some
