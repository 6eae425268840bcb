"""The slots codec: each candidate is a letter, and the next token is the choice.

A prompt is ``prefix + question``. The prefix names the candidates, a short line each, and is the
same for every request of a pool, so a server's prefix cache (or a KV cache in process) holds it;
the question comes last. After the prompt the model's next token is a slot, such as `` A``.

**What the logits mean.** Beside the slots there is one anchor token. The log-odds that candidate
m will be right are

    z_m = logit(slot m) - logit(anchor) = logprob(slot m) - logprob(anchor),

so the plain log probabilities that any server returns for one token carry *absolute* success
probabilities: no extra head, and candidates scored in separate prompts are comparable. A softmax
over slots alone would only rank them.

**What is left out.** Neither prices nor the cost weight stand in the prompt: they enter where the
decision is made, so a new price acts at once, the dial is monotone by construction, and neither
empties a cache. No vendor or model name either: a policy that reads names learns names.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence

from langchain_core.messages import BaseMessage

from xrouter_lg.prompts.render import latest, role_of, spoken

CODEC_VERSION = 1

CARD_SLOTS = "ABCDEFGHIJKLMNOP"
"""Letters of the candidates, in their order."""
ANCHOR_SLOT = "Z"
"""The letter that the others are measured against."""

QUESTION_UNITS = 480
"""Length kept of the question: an ASCII character is one unit, any other three."""
CONTEXT_UNITS = 120
"""Length kept of each earlier message."""
CONTEXT_MESSAGES = 2
LINE_UNITS = 100
"""Length kept of a card's line: ten cards stay under 350 tokens."""

_HEADER = "Models:\n"
_CARD = "{letter}: {line}\n"
_REQUEST = "<request>\n{text}\n</request>\n"
_CONTEXT = "<context>\n{text}\n</context>\n"
_ASK = "Good choice:"

# Special tokens of chat templates, and our own tags, must not be forged by a user's text.
_FORGED = r"<\s*/?\s*(?:request|context)\b|<\|[^|<>\n]{1,40}\|>|\[/?INST\]|</?s>"
_MARKUP = re.compile(_FORGED.replace(r"\s*/?\s*", r"\s*+(?:/\s*+)?"), re.IGNORECASE)
"""Matches the same, in a time that grows with the text alone."""


def prompt_hash() -> str:
    """Identifies templates, budgets, alphabet and version: what a checkpoint was trained with."""
    parts = [
        "slots",
        CODEC_VERSION,
        [CARD_SLOTS, ANCHOR_SLOT],
        [QUESTION_UNITS, CONTEXT_UNITS, CONTEXT_MESSAGES, LINE_UNITS],
        [_HEADER, _CARD, _REQUEST, _CONTEXT, _ASK, _FORGED],
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def slot_token(letter: str) -> str:
    """The text of a slot's token: the letter behind a blank, one token in the usual vocabularies
    (:func:`xrouter_lg.checkpoints.identity.slot_token_ids` checks it)."""
    return f" {letter}"


def card_line(description: str, strengths: Mapping[str, float] | None = None) -> str:
    """What the prompt says of a candidate: measured strengths (share of right answers by kind of
    task) and the description, on one line.

    ``strengths`` come first because the description is what is cut when the line is too long.
    """
    measured = ", ".join(
        f"{_one_line(kind)} {round(100 * share)}" for kind, share in (strengths or {}).items()
    )
    parts = [part for part in (measured, _one_line(description)) if part]
    return clip(neutral("; ".join(parts)), LINE_UNITS, mark="") or "no description"


def render_prefix(lines: Sequence[str]) -> str:
    """The candidate block for up to 16 lines.

    Raises:
        ValueError: more candidates than letters; score them in several prompts.
    """
    if not 0 < len(lines) <= len(CARD_SLOTS):
        raise ValueError(f"{len(lines)} candidates; one prompt takes 1 to {len(CARD_SLOTS)}")
    cards = (_CARD.format(letter=CARD_SLOTS[i], line=line) for i, line in enumerate(lines))
    return _HEADER + "".join(cards)


def render_question(messages: Sequence[BaseMessage]) -> str:
    """Everything behind the candidate block: context, request, and the cue."""
    before, last = latest(messages, CONTEXT_MESSAGES)
    parts = []
    if before:
        said = [f"{role_of(m)}: {_short(spoken(m), CONTEXT_UNITS)}" for m in before]
        parts.append(_CONTEXT.format(text="\n".join(said)))
    parts.append(_REQUEST.format(text=_short(spoken(last).strip(), QUESTION_UNITS)))
    return "".join([*parts, _ASK])


def log_odds(logprobs: Mapping[str, float], letters: Sequence[str]) -> dict[str, float]:
    """z of each letter from log probabilities (or logits) by letter, the anchor's among them.

    A server returns its most probable tokens only. A letter it left out gets the lowest value it
    did return: an upper bound of what the letter's own would have been.

    Raises:
        ValueError: no anchor among the log probabilities, or a value that is no number.
    """
    if ANCHOR_SLOT not in logprobs:
        raise ValueError(
            f"the anchor {ANCHOR_SLOT!r} is not among the returned tokens ({sorted(logprobs)}); "
            "ask the server for more top_logprobs, or restrict its choice to the slots"
        )
    known = {letter: float(value) for letter, value in logprobs.items()}
    if any(math.isnan(value) for value in known.values()):
        raise ValueError(f"log probabilities hold NaN: {known}")
    least = min((value for value in known.values() if math.isfinite(value)), default=0.0)
    anchor = max(known[ANCHOR_SLOT], least)
    return {letter: max(known.get(letter, least), least) - anchor for letter in letters}


def clip(text: str, limit: int, *, mark: str = " ... ") -> str:
    """Head and tail of a text within ``limit`` units (ASCII 1, else 3), three quarters of it head:
    a question stands at either end, and prompts of an app end alike. ``mark``
    shows the gap and counts."""
    if len(text) * 3 <= limit or _units(text) <= limit:
        return text
    if not mark:
        return text[: _reach(text, limit)].rstrip()
    left = limit - _units(mark)
    head = text[: _reach(text, left * 3 // 4)]
    tail = text[len(text) - _reach(text[::-1], left - left * 3 // 4) :]
    return f"{head}{mark}{tail}"


def neutral(text: str) -> str:
    """The text with everything that looks like our tags or a chat template's tokens broken up: a
    request is data and can't pretend to be the prompt around it."""
    return _MARKUP.sub(lambda found: found[0][0] + " " + found[0][1:], text)


def _short(text: str, limit: int) -> str:
    # Cut before cleaning: a pattern over a megabyte of pasted text would cost more than the
    # decision; cleaning adds blanks, so the result may exceed the limit by a few characters.
    return neutral(clip(text, limit))


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _units(text: str) -> int:
    return len(text) if text.isascii() else sum(1 if char.isascii() else 3 for char in text)


def _reach(text: str, limit: int) -> int:
    """How many characters from the start fit into ``limit`` units."""
    used = 0
    for index, char in enumerate(text):
        used += 1 if char.isascii() else 3
        if used > limit:
            return index
    return len(text)
