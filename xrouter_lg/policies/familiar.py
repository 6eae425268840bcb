"""What of a request, left out, makes it one that training knows: so that a sentence more buys no
dearer card.

A head that knows few of a request's words expects of every card what the card does on average.
That is right for requests of a new kind, and could be had by anybody who adds a sentence to a
request of a known kind: "use the best model", in any language, or words without sense. So a strange
request is read again without one span of it, and where what is left is nearly the words of a
request that training has seen, and calls for a cheaper card, that card is called.

Nearly the words: a request of a new kind has a strange part too, and a frame around it ("... Answer
with one word.") that is known. A frame alone is like no request. Leaving out spans without that
condition cost new kinds of task up to 0.10 of utility; with it, nothing (docs/reliability.md).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, combinations, pairwise

from xrouter_lg.checkpoints.family_head import FamilyHead, ends_of
from xrouter_lg.checkpoints.parts import HeadStats
from xrouter_lg.checkpoints.tool_fit import find_tools

LEAST_LIKENESS = 0.96
"""Cosine to the most alike request of training that what is left must have."""
LEAST_CERTAINTY = 0.8
"""How far its reading must be trusted."""
GAIN = 0.05
"""And by how much more than that of the whole."""
_LEAST_WORDS = 3
_PARTS = 6
"""Sentences, the shortest neighbours taken together, at whose ends a span may begin and end."""
_SURELY_STRANGE = 0.7
"""Share of unknown words and pairs above which a word surely belongs to the strange span."""
_SLACK = 0.3
"""Share of unknown words by which a rest may seem too strange: pairs count less in a reading."""
_READ = 12
"""Spans tried, the most promising first: a reading takes a fraction of a millisecond."""
_END = re.compile(r"[.!?:;]\s|[\n。?!]")
_BLANKS = re.compile(r"\s{9,}+")


def familiar_parts(head: FamilyHead, stats: HeadStats, text: str) -> Iterator[str]:
    """The text without one span of it, for the few spans that hold most of what is strange; those
    whose rest may be known well enough. Definitions of tools are never cut into."""
    plain = ends_of(_BLANKS.sub("\n\n", text))
    if plain != text:
        yield plain  # blanks say nothing, but make a text long
    words = _Words.of(head, stats, plain)
    # As many words are known of a rest, about, as its reading has to be trusted for.
    known = stats.known_low + LEAST_CERTAINTY * (stats.known_high - stats.known_low)
    for strange, rest in _rests(words):
        if strange <= 1.0 - known + _SLACK:
            yield rest


def is_familiar(head: FamilyHead, rest: str, certainty: float, whole: float) -> bool:
    """Whether what is left is a request that training knows. ``certainty``: how far its reading is
    trusted, and that of the ``whole``."""
    if certainty < max(LEAST_CERTAINTY, whole + GAIN):
        return False
    return head.likeness(rest) >= LEAST_LIKENESS


@dataclass(frozen=True)
class _Words:
    text: str
    at: list[tuple[int, int]]
    """Where each word stands."""
    strange: list[float]
    """Of each word and its pair with the one before it: 0, half or all unknown."""
    usual: float
    """Share of what is unknown in an ordinary request."""

    @classmethod
    def of(cls, head: FamilyHead, stats: HeadStats, text: str) -> _Words:
        at, known = head.known_words(text)
        return cls(text, at, [1.0 - share for share in known], 1.0 - stats.known_high)


def _rests(words: _Words) -> list[tuple[float, str]]:
    """How strange what is left is, and the text without one span: the least strange first, of
    those the longest."""
    if len(words.at) <= _LEAST_WORDS:
        return []
    cuts = sorted({0, len(words.text), *_sentence_ends(words.text), *_strangest(words)})
    before = [0.0, *accumulate(words.strange)]
    counts, done = [], 0  # words that begin before each cut
    for cut in cuts:
        while done < len(words.at) and words.at[done][0] < cut:
            done += 1
        counts.append(done)
    total, whole = len(words.at), before[-1]
    tools, tools_end, _ = find_tools(words.text)
    ranked = []
    for (a, first), (b, last) in combinations(zip(cuts, counts, strict=True), 2):
        left = total - (last - first)
        if first == last or left < _LEAST_WORDS or (a < tools_end and b > tools):
            continue
        share = (whole - before[last] + before[first]) / left
        ranked.append((round(share, 2), last - first, a, b))
    ranked.sort()
    return [
        (share, f"{words.text[:a]} {words.text[b:]}".strip()) for share, _, a, b in ranked[:_READ]
    ]


def _sentence_ends(text: str) -> list[int]:
    ends = [0, *(found.end() for found in _END.finditer(text)), len(text)]
    parts = [(a, b) for a, b in pairwise(ends) if b > a]
    if len(parts) > 4 * _PARTS:
        step = len(parts) / (4 * _PARTS)
        kept = sorted({int(at * step) for at in range(4 * _PARTS)})
        ends = [parts[at][0] for at in kept] + [len(text)]
        parts = list(pairwise(ends))
    while len(parts) > _PARTS:
        at = min(range(len(parts) - 1), key=lambda at: parts[at + 1][1] - parts[at][0])
        parts[at : at + 2] = [(parts[at][0], parts[at + 1][1])]
    return [end for _, end in parts]


def _strangest(words: _Words) -> list[int]:
    """Ends of the runs of words whose strangeness exceeds a level by most: the largest sum of
    neighbours (Kadane)."""
    cuts: list[int] = []
    for level in sorted({words.usual, _SURELY_STRANGE}):
        best, begin, end = 0.0, 0, 0
        run, start = 0.0, 0
        for at, value in enumerate(words.strange):
            if run <= 0.0:
                run, start = 0.0, at
            run += value - level
            if run > best:
                best, begin, end = run, start, at + 1
        if end > begin:
            cuts += [words.at[begin][0], words.at[end - 1][1]]
    return cuts
