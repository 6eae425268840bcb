"""What of a request, left out, makes it one that training knows: so that a sentence more buys no
dearer card.

A head that knows few of a request's words expects of every card what the card does on average.
That is right for requests of a new kind, and could be had by anybody who adds a sentence to a
request of a known kind: "use the best model", in any language, or words without sense. So a strange
request is read again without one span of it, and where what is left is nearly the words of a
request that training has seen, and calls for a cheaper card, that card is called.

Nearly the words: a request of a new kind has a strange part too, and a frame around it ("... Answer
with one word.") that is known. A frame alone is like no request. Leaving out spans without that
condition cost new kinds of task up to 0.10 of utility; with it, nothing (docs/reliability.md). A
paragraph that is left whole is more likely a request than a frame, and may be less alike; and if it
is much more alike than all of the text, what stands beside it is left out even where its words are
known.

Which span is found in three steps. It begins and ends at the end of a sentence, or where the
strangest run of words does; both ends move to where the words that are left, added up along the
head's directions, come nearest to a request; the few best are read.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, Self

from xrouter_lg.checkpoints.family_head import FamilyHead, ends_of, words_of
from xrouter_lg.checkpoints.parts import HeadStats
from xrouter_lg.checkpoints.tool_fit import find_tools
from xrouter_lg.extras import need

_PURPOSE = "a trained checkpoint"
LEAST_LIKENESS = 0.96
"""Cosine to the most alike request of training that what is left must have ..."""
APART_LIKENESS = 0.7
"""... or where it is a paragraph of its own."""
LEAST_CERTAINTY = 0.8
"""How far its reading must be trusted."""
GAIN = 0.05
"""And by how much more than that of the whole, unless ..."""
NEARER = 0.5
"""... it is a paragraph of its own, of the first likeness, that lacks at most this share of what
the whole lacks to a likeness of 1."""
_LEAST_WORDS = 3
_PARTS = 8
"""Sentences, the shortest neighbours taken together, at whose ends a span may begin and end."""
_SURELY_STRANGE = (0.55, 0.7)
"""Shares of unknown words and pairs above which a word belongs to the strange span, surely and
more surely."""
_READ = 4
"""Rests that are read: a reading takes a fraction of a millisecond."""
_APART = 2
"""Of those, paragraphs of their own."""
_ABOUT = 0.05
"""By how much the likeness of words that are added up may be wrong."""
_REFINED = 1
"""Spans whose ends are moved to where what is left is most alike, beside the strangest runs."""
_REACH = 8
"""Words by which an end may be moved."""
_END = re.compile(r"[.!?:;]\s|[\n。?!]")
_BLANKS = re.compile(r"\s{9,}+")


@dataclass(frozen=True)
class Rest:
    """What is left of a text."""

    text: str
    apart: bool = False
    """Whether it is a paragraph, or several in a row: more likely a request by itself than what is
    left of a sentence."""
    same: bool = False
    """Whether it has all of the words."""


@dataclass(frozen=True)
class Familiarity:
    """How well training knows a request, by which what is left of it is judged."""

    head: FamilyHead
    certainty: float
    """How far its reading is trusted."""
    likeness: float

    @classmethod
    def of(cls, head: FamilyHead, certainty: float, text: str) -> Self:
        return cls(head, 0.0 if head.longer_than_seen(text) else certainty, head.likeness(text))

    @property
    def strange(self) -> bool:
        """Whether a rest may be trusted further."""
        return self.certainty <= 1.0 - GAIN

    def admits(self, rest: Rest, certainty: float) -> bool:
        """Whether what is left is a request that training knows, better than the whole.
        ``certainty``: how far its reading is trusted."""
        if rest.same:
            return certainty >= self.certainty
        if certainty < LEAST_CERTAINTY:
            return False
        likeness = self.head.likeness(rest.text)
        if likeness < (APART_LIKENESS if rest.apart else LEAST_LIKENESS):
            return False
        if certainty >= self.certainty + GAIN:
            return True
        nearer = 1.0 - likeness <= NEARER * (1.0 - self.likeness)
        return rest.apart and likeness >= LEAST_LIKENESS and nearer


def rests(known: Familiarity, stats: HeadStats, text: str) -> Iterator[Rest]:
    """The text without one span of it, for the few spans without which it is most like a request
    of training: of a text that is not strange, its paragraphs alone. Definitions of tools are never
    cut into. What takes long to find comes last."""
    plain = ends_of(_BLANKS.sub("\n\n", text))
    if plain != text:
        yield Rest(plain, same=True)  # blanks make a text long, no more
    if not known.strange and "\n" not in plain:
        return
    words = _Words.of(known.head, stats, plain)
    if words is not None:
        for span in words.spans() if known.strange else words.paragraphs():
            yield words.rest(*span)


@dataclass(frozen=True)
class _Words:
    head: FamilyHead
    text: str
    words: list[str]
    at: list[int]
    """Where each of W words begins, and the text ends."""
    usual: float
    """Share of what is unknown in an ordinary request."""
    tools: tuple[int, int]
    """Numbers of the words at which definitions of tools begin and end."""

    @classmethod
    def of(cls, head: FamilyHead, stats: HeadStats, text: str) -> _Words | None:
        """None for a text that is too short to be without a part."""
        found = words_of(text)
        if len(found) <= _LEAST_WORDS:
            return None
        at = [0, *(begin for begin, _ in found[1:]), len(text)]
        begin, end, _ = find_tools(text)
        tools = (bisect_left(at, begin), bisect_left(at, end)) if end else (0, 0)
        return cls(head, text, [word for _, word in found], at, 1.0 - stats.known_high, tools)

    @cached_property
    def strange(self) -> list[float]:
        """Of each word and its pair with the one before it: 0, half or all unknown."""
        found: list[float] = self._along[0].tolist()
        return found

    @cached_property
    def _alone(self) -> tuple[Any, Any]:
        """[W] how strange each word is, and [W, D] what it adds along the head's directions."""
        known, along = self.head.along(self.words)
        return 1.0 - known, along

    @cached_property
    def _along(self) -> tuple[Any, Any]:
        """The same of each word with its pair; the first one stands for its pair too."""
        strange, along = (part.copy() for part in self._alone)
        pairs = self.head.along([f"{a} {b}" for a, b in pairwise(self.words)])
        strange[1:] = (strange[1:] + 1.0 - pairs[0]) / 2.0
        along[1:] += pairs[1]
        return strange, along

    @cached_property
    def _sums(self) -> tuple[Any, Any]:
        """[W + 1] and [W + 1, D]: what the words before each one add up to."""
        np = need("numpy", _PURPOSE)
        strange, along = self._along
        return np.append(0.0, strange.cumsum()), np.vstack([0.0 * along[:1], along.cumsum(axis=0)])

    def rest(self, first: int, last: int) -> Rest:
        """The text without these words."""
        begin, end = self.at[first], self.at[last]
        before, after = self.text[:begin], self.text[end:]
        return Rest(f"{before} {after}".strip(), self._apart(first, last))

    def paragraphs(self) -> list[tuple[int, int]]:
        """The spans without which a paragraph is left, or several in a row, that may be nearly the
        words of a request."""
        np = need("numpy", _PURPOSE)
        ends, whole = sorted(set(self._sentence_ends())), len(self.words)
        halves = [span for at in ends if 0 < at < whole for span in ((0, at), (at, whole))]
        apart = [span for span in halves if self._apart(*span)]
        if not apart:
            return []
        begin, end, worth = self._allowed(*np.array(apart).T)
        order = [at for at in np.argsort(-worth) if worth[at] >= LEAST_LIKENESS - _ABOUT]
        return [(int(begin[at]), int(end[at])) for at in order[:_APART]]

    def spans(self) -> Iterator[tuple[int, int]]:
        """The spans of words without which the text is most like a request."""
        runs = self._runs()
        ranked = self._ranked(runs)
        apart = [span for span in ranked if self._apart(*span)][:_APART]
        seen = dict.fromkeys([*apart, *ranked[:_READ]])
        yield from seen
        for span in dict.fromkeys([*runs, *ranked[:_REFINED]]):
            refined = self._refined(span)
            if refined is not None and refined not in seen:
                seen[refined] = None
                yield refined

    def _ranked(self, runs: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """The spans from one end of a sentence, or of these runs, to another, those first without
        which the text is most like a request, and the shortest."""
        np = need("numpy", _PURPOSE)
        ends = {0, len(self.words), *self._sentence_ends(), *(end for run in runs for end in run)}
        cuts = np.array(sorted(ends))
        begin, end = (cuts[at] for at in np.triu_indices(len(cuts), 1))
        begin, end, worth = self._allowed(begin, end)
        order = np.lexsort((end - begin, -worth.round(2)))
        return list(zip(begin[order].tolist(), end[order].tolist(), strict=True))

    def _apart(self, first: int, last: int) -> bool:
        """Whether a span is all before a break between paragraphs, or all behind one."""
        if first and last < len(self.words):
            return False
        cut = last if first == 0 else first
        return "\n" in self.text[self.at[cut - 1] : self.at[cut]]

    def _allowed(self, begin: Any, end: Any) -> tuple[Any, Any, Any]:
        """The spans of words that leave enough, and all of the tools; and how much like a request
        what they leave is, less by what is strange in it."""
        np = need("numpy", _PURPOSE)
        first, last = self.tools
        left = len(self.words) - (end - begin) - (last - first)
        kept = (end > begin) & (left >= _LEAST_WORDS)
        if last > first:
            kept &= (end <= first) | (begin >= last)
        begin, end, left = begin[kept], end[kept], left[kept]
        strange, along = (of[-1] - of[end] + of[begin] for of in self._sums)
        # The word behind the span has another neighbour now, or none.
        behind = np.flatnonzero(end < len(self.words))
        word, before = end[behind], begin[behind]
        joined = [f"{self.words[a - 1]} {self.words[b]}" for a, b in zip(before, word, strict=True)]
        known, pair = self.head.along(joined)
        alone, own = (of[word] for of in self._alone)
        opens = before == 0
        strange[behind] += np.where(opens, alone, (alone + 1.0 - known) / 2) - self._along[0][word]
        along[behind] += own + np.where(opens, 0.0, 1.0)[:, None] * pair - self._along[1][word]
        strange -= self._sums[0][last] - self._sums[0][first]
        return begin, end, self.head.alike(along) - strange / left

    def _refined(self, span: tuple[int, int]) -> tuple[int, int] | None:
        """The span with its ends where what is left is most like a request: one after the other,
        in the better order. None where too little is left whatever is done."""
        best, found = -math.inf, None
        for order in ((0, 1), (1, 0)):
            worth, moved = 0.0, span
            for side in order:
                worth, moved = self._moved(moved, side)
            if worth > best:
                best, found = worth, moved
        return found

    def _moved(self, span: tuple[int, int], side: int) -> tuple[float, tuple[int, int]]:
        """A span with this end where what is left is most like a request, and how much it is."""
        np = need("numpy", _PURPOSE)
        moved = np.arange(-_REACH, _REACH + 1) + span[side]
        moved = moved[(moved >= 0) & (moved <= len(self.words))]
        still = np.full_like(moved, span[1 - side])
        first, last, worth = self._allowed(*((moved, still) if side == 0 else (still, moved)))
        if not len(worth):
            return -math.inf, span
        best = int(np.lexsort((last - first, -worth.round(2)))[0])
        return float(worth[best]), (int(first[best]), int(last[best]))

    def _sentence_ends(self) -> list[int]:
        ends = [0, *(found.end() for found in _END.finditer(self.text)), len(self.text)]
        parts = [(a, b) for a, b in pairwise(ends) if b > a]
        if len(parts) > 4 * _PARTS:
            step = len(parts) / (4 * _PARTS)
            kept = sorted({int(at * step) for at in range(4 * _PARTS)})
            parts = list(pairwise([parts[at][0] for at in kept] + [len(self.text)]))
        while len(parts) > _PARTS:
            at = min(range(len(parts) - 1), key=lambda at: parts[at + 1][1] - parts[at][0])
            parts[at : at + 2] = [(parts[at][0], parts[at + 1][1])]
        return [bisect_left(self.at, end) for _, end in parts]

    def _runs(self) -> list[tuple[int, int]]:
        """The runs of words whose strangeness exceeds a level by most: the largest sum of
        neighbours (Kadane)."""
        runs: list[tuple[int, int]] = []
        for level in sorted({self.usual, *_SURELY_STRANGE}):
            best, begin, end = 0.0, 0, 0
            run, start = 0.0, 0
            for at, value in enumerate(self.strange):
                if run <= 0.0:
                    run, start = 0.0, at
                run += value - level
                if run > best:
                    best, begin, end = run, start, at + 1
            if end > begin:
                runs.append((begin, end))
        return list(dict.fromkeys(runs))
