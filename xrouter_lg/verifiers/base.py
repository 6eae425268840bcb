"""What a verifier is: an answer and a reference in, a score in [0, 1] or None with a reason out.

A wrong answer scores 0. A verifier that fails (its time is up, it raised, its judge is down, its
reference makes no sense) gives None and says why: the sample leaves the batch, it is no zero.
"""

from __future__ import annotations

import json
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

from xrouter_lg.errors import ConfigurationError, XRouterError
from xrouter_lg.types import Charge

_REASON_CHARS = 600


@dataclass(frozen=True, slots=True)
class Verdict:
    """A score, or None, and in either case why."""

    score: float | None
    reason: str = ""
    charges: tuple[Charge, ...] = ()
    """What the verdict cost, for verifiers that call a model."""

    def __post_init__(self) -> None:
        if self.score is not None and not (math.isfinite(self.score) and 0.0 <= self.score <= 1.0):
            raise ValueError(f"score is {self.score!r}; it must be in [0, 1] or None")
        if self.score is None and not self.reason:
            raise ValueError("a verdict without a score needs a reason")
        if len(self.reason) > _REASON_CHARS:
            object.__setattr__(self, "reason", self.reason[:_REASON_CHARS] + " ...")

    @classmethod
    def of(cls, right: bool, reason: str = "") -> Verdict:
        return cls(1.0 if right else 0.0, reason)

    def to_dict(self) -> dict[str, Any]:
        return {
            "score": self.score,
            "reason": self.reason,
            "charges": [charge.to_dict() for charge in self.charges],
        }


class VerifierConfigError(ConfigurationError):
    """A verifier can't be built from its arguments; the message says which and what is allowed."""


class Unverifiable(XRouterError):
    """Raised inside a verifier when no verdict is possible; becomes a None with this reason."""


@dataclass(frozen=True, slots=True)
class Case:
    """An answer whose verdict is known: right ones must score above 0.5, wrong ones below."""

    answer: str
    reference: Any = None
    good: bool = True
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CaseResult:
    case: Case
    verdict: Verdict

    @property
    def ok(self) -> bool:
        score = self.verdict.score
        return score is not None and (score > 0.5 if self.case.good else score < 0.5)


@dataclass(frozen=True, slots=True)
class CheckReport:
    """Whether a verifier proved itself. Without a good and a bad case it did not."""

    name: str
    results: tuple[CaseResult, ...]

    @property
    def problems(self) -> list[str]:
        found = [
            f"no known-{kind} case: add `{kind}: [{{answer: ..., reference: ...}}]`"
            for kind, good in (("good", True), ("bad", False))
            if not any(result.case.good is good for result in self.results)
        ]
        for result in self.results:
            if not result.ok:
                kind = "good" if result.case.good else "bad"
                found.append(
                    f"known-{kind} answer {result.case.answer[:80]!r} scored "
                    f"{result.verdict.score}: {result.verdict.reason or 'no reason given'}"
                )
        return found

    @property
    def ok(self) -> bool:
        return not self.problems

    def raise_if_bad(self) -> None:
        """Raise :class:`UnprovenVerifierError` unless every case came out right."""
        if not self.ok:
            raise UnprovenVerifierError(f"verifier {self.name!r}: " + "; ".join(self.problems))


class UnprovenVerifierError(XRouterError, RuntimeError):
    """A verifier misjudged an answer whose verdict is known: it may not score anything."""


@runtime_checkable
class SupportsVerify(Protocol):
    """What grading needs of a verifier."""

    @property
    def name(self) -> str: ...

    def __call__(
        self, answer: str, reference: Any = None, *, meta: Mapping[str, Any] | None = None
    ) -> Verdict: ...


class Verifier(ABC):
    """Base of the built-in ones. A subclass writes ``verify``; callers call the object.

    ``extract`` names the part of an answer that counts: ``all`` (default), ``json:FIELD`` (the
    field of the last JSON object in the answer), ``code`` (the last fenced block, else all),
    ``last_line``, ``boxed`` (the last ``\\boxed{}``), ``regex:PATTERN`` (its first group, last
    match). An answer without that part is wrong: 0.
    """

    name: ClassVar[str]
    cases: ClassVar[Sequence[Case]] = ()

    def __init__(self, *, extract: str = "all", cases: Iterable[Case] = ()) -> None:
        check_extract(extract)
        self.extract = extract
        self.own_cases = tuple(cases)

    @abstractmethod
    def verify(self, answer: str, reference: Any, meta: Mapping[str, Any]) -> Verdict:
        """Judge the extracted answer. May raise: the caller sees a None with the reason."""

    def __call__(
        self, answer: str, reference: Any = None, *, meta: Mapping[str, Any] | None = None
    ) -> Verdict:
        """The verdict; never raises for anything an answer or a reference holds."""
        try:
            part = extract_part(answer, self.extract)
            if part is None:
                return Verdict(0.0, f"the answer has no {self.extract!r} part")
            return self.verify(part, reference, meta or {})
        except Unverifiable as error:
            return Verdict(None, str(error))
        except Exception as error:
            return Verdict(None, f"the verifier failed: {type(error).__name__}: {error}")

    def check(self) -> CheckReport:
        """Judge the known cases: the given ones, or the built-in ones where none are given.

        Built-in cases are whole answers, so they are judged as they are, without ``extract``.
        """
        extract = self.extract
        if not self.own_cases:
            self.extract = "all"
        try:
            results = [
                CaseResult(case, self(case.answer, case.reference, meta=case.meta))
                for case in self.own_cases or self.default_cases()
            ]
        finally:
            self.extract = extract
        return CheckReport(self.name, tuple(results))

    def default_cases(self) -> Sequence[Case]:
        """Known cases that fit these arguments; none where only the user can know them."""
        return self.cases

    def close(self) -> None:  # noqa: B027
        """Give back processes and connections; the object may be called again afterwards."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


_FENCE = re.compile(r"```[^\n`]*\n(.*?)(?:```|\Z)", re.DOTALL)


def check_extract(rule: str) -> None:
    """Raise :class:`VerifierConfigError` for an unknown ``extract`` rule."""
    if rule in ("all", "code", "last_line", "boxed"):
        return
    kind, _, value = rule.partition(":")
    if kind not in ("json", "regex") or not value:
        raise VerifierConfigError(
            f"extract is {rule!r}; use all, code, last_line, boxed, json:FIELD or regex:PATTERN"
        )
    if kind == "regex":
        try:
            re.compile(value)
        except re.error as error:
            raise VerifierConfigError(f"extract {rule!r} is no regular expression: {error}") from (
                error
            )


def extract_part(answer: str, rule: str) -> str | None:
    """The part of an answer that counts, None where there is none."""
    if rule == "all":
        return answer
    if rule == "code":
        blocks = _FENCE.findall(answer)
        return str(blocks[-1]) if blocks else answer
    if rule == "last_line":
        lines = [line.strip() for line in answer.splitlines() if line.strip()]
        return lines[-1] if lines else None
    if rule == "boxed":
        return last_boxed(answer)
    kind, _, value = rule.partition(":")
    if kind == "json":
        found = last_json_object(answer)
        if found is not None and value in found:
            part = found[value]
            return part if isinstance(part, str) else json.dumps(part, ensure_ascii=False)
        # A stray quote in another field breaks the object; the field alone may still be whole.
        alone = re.findall(rf'"{re.escape(value)}"\s*:\s*"([^"\\\n]*)"', answer)
        return str(alone[-1]) if alone else None
    matches = search_all(value, answer)
    return matches[-1] if matches else None


def search_all(pattern: str, text: str, *, timeout_s: float = 1.0) -> list[str]:
    """First group (or whole match) of every match.

    Raises:
        Unverifiable: the pattern needs longer than ``timeout_s`` on this text.
    """
    # Not re: that has no timeout and can hang for ever on a bad pattern.
    import regex  # type: ignore[import-untyped,unused-ignore]

    try:
        return [
            match.group(1 if match.re.groups else 0) or ""
            for match in regex.finditer(pattern, text, timeout=timeout_s)
        ]
    except TimeoutError:
        raise Unverifiable(f"pattern {pattern!r} took longer than {timeout_s} s") from None


def last_boxed(text: str) -> str | None:
    """Content of the last ``\\boxed{...}``, braces balanced; None without one."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth, begin = 0, start + len("\\boxed{")
    for position in range(begin - 1, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return text[begin:position]
    return None


def last_json_object(text: str) -> dict[str, Any] | None:
    """The last JSON object written in a text, in a fence or bare; None without one.

    Models break lines inside JSON strings and leave LaTeX's backslashes single, so control
    characters pass and, second best, lone backslashes are doubled.
    """
    decoder = json.JSONDecoder(strict=False)
    for candidate in (text, re.sub(r'\\(?!["\\/bfnrtu])', r"\\\\", text)):
        found: dict[str, Any] | None = None
        position = candidate.find("{")
        tries = 0
        while position >= 0 and tries < 200:
            tries += 1
            try:
                value, end = decoder.raw_decode(candidate, position)
            except (ValueError, RecursionError):
                end = position + 1
            else:
                if isinstance(value, dict):
                    found = value
            position = candidate.find("{", end)
        if found is not None:
            return found
    return None
