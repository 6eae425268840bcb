"""What of a request a trained head reads: not the one span that alone makes it strange.

Where a head knows few of a request's words it expects of every card what the card does on average,
which is right for requests of a new kind, and can be had by anybody who adds a sentence to a
request of a known kind: "use the best model", in any language, or words without sense. So a
request that is strange is read without its strangest span, if what is left is a request that
training knows, as long as such requests are: what nobody has seen an outcome of then moves nothing.
A request that is strange all over, and one that is not strange, are read whole, and definitions of
tools are never cut into.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, combinations, pairwise

from langchain_core.messages import BaseMessage

from xrouter_lg.checkpoints.family_head import FamilyHead, FamilyReading, ends_of
from xrouter_lg.checkpoints.parts import HeadStats
from xrouter_lg.checkpoints.tool_fit import find_tools
from xrouter_lg.said import text_of

_GAIN = 0.05
"""By how much what is left must be trusted more than the whole."""
_LEAST_TRUST = 0.5
"""And how much at least."""
_LEAST_WORDS = 3
_PARTS = 6
"""Sentences, the shortest neighbours taken together, at whose ends a span may begin and end."""
_SURELY_STRANGE = 0.7
"""Share of unknown words and pairs above which a word surely belongs to the strange span."""
_READ = 4
"""Spans tried, the most promising first: a reading takes a fraction of a millisecond."""
_END = re.compile(r"[.!?:;]\s|[\n。?!]")
_BLANKS = re.compile(r"\s{9,}")


def asked_text(messages: Sequence[BaseMessage]) -> str:
    """The text of the user's last message; where no user speaks, of the last one. What a tool or a
    system prompt says is not read: whoever wrote that is not who asks."""
    asked = [message for message in messages if message.type == "human"]
    return text_of((asked or messages)[-1])


def trust(stats: HeadStats, known: float) -> float:
    """How far readings of a request are trusted, 0 to 1, by its share of known words."""
    width = max(stats.known_high - stats.known_low, 1e-9)
    return min(max((known - stats.known_low) / width, 0.0), 1.0)


def certainty(stats: HeadStats, reading: FamilyReading) -> float:
    """How far readings of a request are trusted, 0 to 1: by its words, and by its shape."""
    return min(trust(stats, reading.known), reading.near)


def familiar_part(head: FamilyHead, stats: HeadStats, text: str) -> str:
    """The text, or what is left of it without the span that makes it strange."""
    text = _BLANKS.sub("\n\n", text)  # which say nothing, but make it long
    whole = certainty(stats, head.read(text))
    if whole > 1.0 - _GAIN:
        return text
    best, least = text, max(whole + _GAIN, _LEAST_TRUST)
    for rest in _rests(_Words.of(head, stats, ends_of(text))):
        reading = head.read(rest)
        found = certainty(stats, reading)
        # Three words of a sentence may be of a known kind, and are no request. The most promising
        # comes first: another must be clearly better.
        if found >= least and len(rest) >= head.shortest(reading):
            best, least = rest, found + _GAIN
    return best


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


def _rests(words: _Words) -> list[str]:
    """The text without one span of it, for the spans that hold most of what is strange."""
    if len(words.at) <= _LEAST_WORDS:
        return []
    cuts = sorted({0, len(words.text), *_sentence_ends(words.text), *_strangest(words)})
    before = [0.0, *accumulate(words.strange)]
    # Words that begin before each cut.
    counts, done = [], 0
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
    return [f"{words.text[:a]} {words.text[b:]}".strip() for _, _, a, b in ranked[:_READ]]


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
    """Ends of the runs of words whose strangeness exceeds the usual by most: the largest sum of
    neighbours (Kadane)."""
    cuts: list[int] = []
    for level in {words.usual, _SURELY_STRANGE}:
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
