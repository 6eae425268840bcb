"""Verifiers that compare text: exact, normalised, multiple choice, regular expression."""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from xrouter_lg.verifiers.base import (
    Case,
    Unverifiable,
    Verdict,
    Verifier,
    VerifierConfigError,
    last_boxed,
    last_json_object,
    search_all,
)

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def accepted(reference: Any) -> list[str]:
    """The texts that count as right: the reference, or each of a list of them."""
    if reference is None:
        raise Unverifiable("there is no reference to compare with")
    several = isinstance(reference, Sequence) and not isinstance(reference, str | bytes)
    values = list(reference) if several else [reference]
    if not values:
        raise Unverifiable("the reference is an empty list")
    return [value if isinstance(value, str) else str(value) for value in values]


def normalise(text: str, *, punctuation: bool = False, articles: bool = False) -> str:
    """NFKC, folded case, single spaces; punctuation and English articles kept unless told."""
    text = unicodedata.normalize("NFKC", text)
    # Folding can undo the composition and NFKC is not closed under folding: once more each.
    text = unicodedata.normalize("NFKC", text.casefold()).casefold()
    if punctuation:
        text = text.translate(_PUNCTUATION)
    if articles:
        text = _ARTICLES.sub(" ", text)
    return " ".join(text.split())


class Exact(Verifier):
    """The answer is the reference, character by character; ``strip`` ignores outer blanks."""

    name: ClassVar[str] = "exact"
    cases: ClassVar[Sequence[Case]] = (
        Case("Paris", "Paris"),
        Case("Paris\n", ["Rome", "Paris"]),
        Case("paris", "Paris", good=False),
        Case("", "Paris", good=False),
    )

    def __init__(self, *, strip: bool = True, **options: Any) -> None:
        super().__init__(**options)
        self.strip = strip

    def default_cases(self) -> Sequence[Case]:
        return self.cases if self.strip else [c for c in self.cases if "\n" not in c.answer]

    def verify(self, answer: str, reference: Any, meta: Mapping[str, Any]) -> Verdict:
        right = accepted(reference)
        if self.strip:
            answer, right = answer.strip(), [text.strip() for text in right]
        return Verdict.of(answer in right)


class NormalisedMatch(Verifier):
    """The answer equals, or with ``contains`` holds as whole words, the normalised reference."""

    name: ClassVar[str] = "normalised"
    cases: ClassVar[Sequence[Case]] = (
        Case("  PARIS ", "Paris"),
        Case("Ｐａｒｉｓ", ["Rome", "paris"]),
        Case("Lyon", "Paris", good=False),
        Case("", "Paris", good=False),
    )

    def __init__(
        self,
        *,
        contains: bool = False,
        punctuation: bool = True,
        articles: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.contains, self.punctuation, self.articles = contains, punctuation, articles

    def verify(self, answer: str, reference: Any, meta: Mapping[str, Any]) -> Verdict:
        texts = accepted(reference)
        right = [self._normal(text) for text in texts]
        if not all(right):  # "!" or "the": nothing is left to compare
            given = normalise(answer)
            return Verdict.of(given in [normalise(text) for text in texts])
        given = self._normal(answer)
        if self.contains:
            return Verdict.of(any(f" {text} " in f" {given} " for text in right))
        return Verdict.of(given in right)

    def _normal(self, text: str) -> str:
        return normalise(text, punctuation=self.punctuation, articles=self.articles)


_LONE = re.compile(r"^[\s(\[*_]*([A-Za-z])[\s)\].:*_]*$")
_STATED = re.compile(
    r"(?:answer|option|choice)(?:\s+(?:is|would be|should be))?[\s:=*_\"'(\[]*"
    r"(?:\\text\{)?\(?([A-Za-z])(?![A-Za-z'])",
    re.IGNORECASE,
)
_LEADING = re.compile(r"^[\s(\[*_]*([A-Z])[)\].:*_]+(?:\s|$)")


class MultipleChoice(Verifier):
    """The option chosen, wherever a model states it: ``C``, ``(C)``, ``The answer is C.``,
    ``\\boxed{C}``, ``{"answer": "C"}``. The reference is a letter, an index (0 = A), or the
    text of one of ``meta["choices"]``.
    """

    name: ClassVar[str] = "multiple_choice"
    cases: ClassVar[Sequence[Case]] = (
        Case("C", "C"),
        Case("A looks right at first, but the answer is (C).", "C"),
        Case("**Answer:** b", 1),
        Case("Paris", "B", meta={"choices": ["Rome", "Paris"]}),
        Case("The answer is B.", "C", good=False),
        Case("A, B, C or D", "C", good=False),
        Case("", "C", good=False),
    )

    def verify(self, answer: str, reference: Any, meta: Mapping[str, Any]) -> Verdict:
        choices = [str(choice) for choice in meta.get("choices") or ()]
        wanted = _wanted_letter(reference, choices)
        chosen = chosen_letter(answer, choices)
        if chosen is None:
            return Verdict(0.0, "no option can be read from the answer")
        return Verdict.of(chosen == wanted, f"chose {chosen}")


def _wanted_letter(reference: Any, choices: Sequence[str]) -> str:
    if isinstance(reference, int) and not isinstance(reference, bool) and 0 <= reference < 26:
        return string.ascii_uppercase[reference]
    if isinstance(reference, str):
        lone = _LONE.match(reference)
        if lone:
            return lone.group(1).upper()
        normal = [normalise(choice) for choice in choices]
        if normal.count(normalise(reference)) == 1:
            return string.ascii_uppercase[normal.index(normalise(reference))]
    raise Unverifiable(
        f"reference {reference!r} is no letter, index, or one of the {len(choices)} choices"
    )


def chosen_letter(answer: str, choices: Sequence[str] = ()) -> str | None:
    """The letter that an answer settles on; None when it settles on none.

    Explicit statements win over position, later ones over earlier ones.
    """
    last = string.ascii_uppercase[len(choices) - 1] if choices else "Z"
    found = last_json_object(answer)
    fields = [] if found is None else [found[key] for key in ("answer", "choice") if key in found]
    for part in (*fields, last_boxed(answer)):
        if isinstance(part, str):
            lone = _LONE.match(re.sub(r"\\text\{([^\\]*)\}", r"\1", part)) or _LEADING.match(part)
            if lone:
                return lone.group(1).upper()
    lone = _LONE.match(answer)
    if lone:
        return lone.group(1).upper()
    stated = [m.group(1) for m in _STATED.finditer(answer)]
    # "the answer is a bit unclear": a lower-case article is no choice unless it ends the text.
    stated = [s for s in stated if s != "a" or re.search(r"[:=(\s]a[).\s]*$", answer)]
    if stated and stated[-1].upper() <= last:
        return stated[-1].upper()
    lines = [line for line in answer.strip().splitlines() if line.strip()]
    for line in (lines[:1] + lines[-1:]) if lines else ():
        leading = _LEADING.match(line) or _LONE.match(line)
        if leading and leading.group(1).upper() <= last:
            return leading.group(1).upper()
    normal = [normalise(choice, punctuation=True) for choice in choices]
    given = normalise(answer, punctuation=True)
    if normal.count(given) == 1:
        return string.ascii_uppercase[normal.index(given)]
    return None


class RegexMatch(Verifier):
    """The answer matches ``pattern``, or the reference as a pattern where none is given.

    With ``group_is_reference`` the pattern's last first-group must equal the reference.
    """

    name: ClassVar[str] = "regex"
    cases: ClassVar[Sequence[Case]] = (
        Case("order 12-345", r"\d{2}-\d{3}"),
        Case("order 1-2", r"\d{2}-\d{3}", good=False),
    )

    def __init__(
        self,
        *,
        pattern: str | None = None,
        full: bool = False,
        group_is_reference: bool = False,
        timeout_s: float = 1.0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if group_is_reference and pattern is None:
            raise VerifierConfigError("group_is_reference needs a pattern with a group")
        if pattern is not None:
            try:
                re.compile(pattern)
            except re.error as error:
                raise VerifierConfigError(f"pattern {pattern!r}: {error}") from error
        self.pattern, self.full = pattern, full
        self.group_is_reference, self.timeout_s = group_is_reference, timeout_s

    def default_cases(self) -> Sequence[Case]:
        # A pattern of the user's own: only they know what it should match.
        return self.cases if self.pattern is None and not self.full else ()

    def verify(self, answer: str, reference: Any, meta: Mapping[str, Any]) -> Verdict:
        if self.group_is_reference:
            assert self.pattern is not None
            groups = search_all(self.pattern, answer, timeout_s=self.timeout_s)
            return Verdict.of(bool(groups) and groups[-1].strip() in accepted(reference))
        patterns = [self.pattern] if self.pattern is not None else accepted(reference)
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise Unverifiable(f"the pattern {pattern!r} is broken: {error}") from error
            whole = rf"\A(?:{pattern})\Z" if self.full else pattern
            if search_all(whole, answer, timeout_s=self.timeout_s):
                return Verdict(1.0)
        return Verdict(0.0)
