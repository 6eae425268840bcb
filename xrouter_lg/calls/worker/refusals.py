"""What of a request a model has refused, read off its words: a parameter, or a limit's size."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from xrouter_lg.calls.failures import text_of_error

_NOT_TAKEN = re.compile(
    r"unsupported|not (be )?(supported|permitted|allowed|set|enabled)|must be unset"
    r"|do(es)?(n't| not) (support|accept)"
    r"|un(known|recognized|expected)|extra[ _](inputs|forbidden)|deprecated|may only be set"
    r"|can(not|'t) (both )?be (used|specified|set)|can(not|'t) (specify|set)|already set"
    r"|incompatible",
    re.IGNORECASE,
)
_TOOLS = re.compile(r"\btools\b|function_declarations")


def refused_parameter(error: BaseException, sent: Collection[str]) -> tuple[str, bool] | None:
    """Which parameter of those that were sent a provider has refused, and whether it is the name
    that the model does not take (True) or only this value; None for a refusal of another kind."""
    text = text_of_error(error)
    lasting = _NOT_TAKEN.search(text) is not None
    named = _parameter(error)
    if "tools" in sent and named is None and _TOOLS.search(text):
        return "tools", True  # an empty list of them was sent
    if named is not None:
        names = (named.rpartition(".")[2], named.replace(".", "_"), named.partition(".")[0])
        return next(((name, lasting) for name in names if name in sent), None)
    if not lasting:
        return None
    places = {name: found.start() for name in sent if (found := re.search(_spellings(name), text))}
    return (min(places, key=places.__getitem__), True) if places else None


_THINKING = frozenset({"reasoning", "thinking"})
"""Names that are words too: a refusal has them in quotes, with a part of theirs, or as what is not
supported."""


def _spellings(name: str) -> str:
    """A pattern for a parameter's name as providers write it: ``presence_penalty``,
    ``presencePenalty``; Google says ``Penalty`` for either of the two."""
    if name in _THINKING:
        return rf"[\"'`]{name}\b|\b{name}\.\w|support (thinking|reasoning)\b"
    first, *others = name.split("_")
    names = [re.escape(name), first + "".join(part.capitalize() for part in others)]
    if name == "stop":
        names += ["stop_sequences", "stopSequences"]
    elif name.endswith("_penalty"):
        names.append("Penalty(?= is)")
    return rf"\b({'|'.join(names)})\b"


_LIMITS = re.compile(
    r"max_?((completion|output)_?)?tokens|(completion|output) tokens", re.IGNORECASE
)
_AT_MOST = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"at most (\d{1,9}) (?:completion|output) tokens",  # OpenAI
        r"> (\d{1,9}), which is the maximum",  # Anthropic
        r"<= ?(\d{1,9})\b",  # VolcEngine
        r"less than or equal to \W?(\d{1,9})\b",  # Groq
        r"valid range of max_tokens is \[\d{1,9}, ?(\d{1,9})\]",  # DeepSeek
    )
)
_BELOW = re.compile(r"supported range is from \d{1,9} \(inclusive\) to (\d{1,9}) \(exclusive\)")
"""Gemini's."""


def largest_limit(error: BaseException) -> int | None:
    """The longest answer (tokens) that a model says it can be asked for, where the refusal is of a
    limit above that; None for a refusal of another kind."""
    text = text_of_error(error)
    if not _LIMITS.search(text):
        return None
    if found := _BELOW.search(text):
        return int(found[1]) - 1
    return next((int(told[1]) for it in _AT_MOST if (told := it.search(text))), None)


def _parameter(error: BaseException) -> str | None:
    body = getattr(error, "body", None)
    inner = body.get("error") if isinstance(body, Mapping) else None
    for holder in (body, inner):
        if isinstance(holder, Mapping) and isinstance(named := holder.get("param"), str):
            return named if named not in ("", "None") else None
    return None
