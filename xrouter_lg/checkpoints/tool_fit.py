"""Do the tools of a request fit its question? Counts that a bag of words can't give.

Where a request carries tool definitions in its text (JSON objects with a name and a description or
parameters), what matters for routing is how question and tools relate: a tool that shares no word
with the question can hardly serve it, and some models call it all the same. Words are compared by
their first five letters and weighted by how rare they are in training; of several tools the best
fitting one counts.
"""

from __future__ import annotations

import json
import math
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

FEATURES = (
    "tools: any",
    "tools: log count",
    "name covered",
    "description covered",
    "name and description covered",
    "mean covered over tools",
    "parameters covered",
    "question covered by tool",
    "parameter names hit",
    "required names hit",
    "required parameters",
    "values in question",
    "numbers over numeric parameters",
    "fewer numbers than numeric parameters",
    "no number for numeric parameters",
    "plain words unmatched",
    "rare plain words unmatched",
    "rarest tool word missed",
    "name trigrams hit",
    "description trigrams hit",
    "capitalised words",
    "question length",
    "asks",
    "one tool",
    "one tool: covered",
    "one tool: question length",
)
STEM_BUCKETS = 1 << 16

_STEM = 5
_START = re.compile(r'[\[{]\s*[{"]')
_LABEL = re.compile(r"\b\w{1,20}:$")
"""What introduces the tools, such as "Tools:": no part of the question."""
_TOKEN = re.compile(r"[A-Za-z]+")
_PLAIN = re.compile(r"\b[a-z]+\b")
_CAMEL = re.compile(r"([a-z])([A-Z])")
_NAMED = re.compile(r"(?<=\s)[A-Z]\w+")
_NUMBER = re.compile(r"(?<![\w.])-?\d[\d,.]*")
_VALUE = re.compile(r"\d+(?:\.\d+)?|'[^']+'|\"[^\"]+\"|(?<=\s)[A-Z]\w+")
_ASKING = frozenset({"what", "who", "how", "which", "where", "when", "why", "whose"})
_STOP = frozenset(
    _TOKEN.findall(
        "the an of to in for on at is are and or with by from as be this that it its my me you "
        "your can could would please what how do does which if then into than will was were has "
        "have not all any each"
    )
)
_NUMERIC = frozenset({"integer", "number", "float", "double", "long", "array", "tuple"})
_SILENT = frozenset({"type", "required", "optional"})
"""Keys of a JSON schema whose values say nothing of what a tool is for."""
_TRIES = 20
"""Places at which JSON is looked for: a request full of braces must not cost seconds."""
_MOST_TOOLS = 64

Weight = Callable[[str], float]
"""How much a stem counts."""


def split_tools(text: str) -> tuple[str, list[Mapping[str, Any]]]:
    """The text without its tool definitions, and these; the whole text and none where it has
    none."""
    start, end, tools = find_tools(text)
    if not tools:
        return text, []
    before = _LABEL.sub("", text[:start].rstrip()).rstrip()
    return f"{before} {text[end:].strip()}".strip(), tools


def find_tools(text: str) -> tuple[int, int, list[Mapping[str, Any]]]:
    """Where a text defines tools, and these; none where it has none."""
    decoder = json.JSONDecoder()
    for tried, found in enumerate(_START.finditer(text)):
        if tried >= _TRIES:
            break
        try:
            value, end = decoder.raw_decode(text, found.start())
        except (ValueError, RecursionError):
            continue
        tools = [_tool(item) for item in (value if isinstance(value, list) else [value])]
        known = [tool for tool in tools if tool is not None]
        if known and len(known) == len(tools):
            return found.start(), end, known[:_MOST_TOOLS]
    return 0, 0, []


def stems(text: str) -> list[str]:
    """The words of a text by their first letters, frequent ones left out, ``camelCase`` split."""
    words = (word.lower() for word in _TOKEN.findall(_CAMEL.sub(r"\1 \2", text)))
    return [word[:_STEM] for word in words if len(word) > 1 and word not in _STOP]


def stem_bucket(stem: str) -> int:
    """The bucket that a stem's weight is kept in: no vocabulary travels with a checkpoint."""
    return zlib.crc32(stem.encode()) % STEM_BUCKETS


def stem_weight(buckets: Sequence[int], weights: Sequence[float], prompts: int) -> Weight:
    """Weights by bucket as a function of a stem; one never seen in ``prompts`` weighs most. All
    weigh a little: a word of every request still tells one tool from another."""
    known = dict(zip((int(b) for b in buckets), (float(w) for w in weights), strict=True))
    unseen = math.log(1 + prompts)
    return lambda stem: known.get(stem_bucket(stem), unseen) + 0.01


def tool_features(text: str, weight: Weight) -> list[float]:
    """One number per entry of ``FEATURES``; all 0 where the text defines no tool."""
    question, tools = split_tools(text)
    if not tools:
        return [0.0] * len(FEATURES)
    asked = set(stems(question))

    def whole(words: set[str]) -> float:
        return math.fsum(map(weight, words))  # whatever order a set is in

    def covered(words: set[str], by: set[str]) -> float:
        return whole(words & by) / max(whole(words), 1e-9)

    subjects = [set(stems(f"{tool['name']} {_description(tool)}")) for tool in tools]
    shares = [covered(subject, asked) for subject in subjects]
    best = max(range(len(tools)), key=shares.__getitem__)
    tool, subject = tools[best], subjects[best]
    properties, required = _parameters(tool)
    inside = set(stems(" ".join(_strings(tool.get("parameters") or {}))))
    names = [set(stems(name)) for name in properties]
    needed = [set(stems(name)) for name in required]
    numeric = [name for name in required if _kind(properties.get(name)) in _NUMERIC]
    numbers = len(_NUMBER.findall(question))
    plain = {w[:_STEM] for w in _PLAIN.findall(question) if len(w) > 1 and w not in _STOP}
    unmatched = plain - subject - inside
    spoken = _trigrams(question)
    words = [word.lower() for word in _TOKEN.findall(question)]
    length = math.log1p(len(question.split()))
    single = float(len(tools) == 1)
    return [
        1.0,
        math.log(len(tools)),
        covered(set(stems(str(tool["name"]))), asked),
        covered(set(stems(_description(tool))), asked),
        shares[best],
        sum(shares) / len(shares),
        covered(inside, asked),
        covered(asked, subject | inside),
        _share_hit(names, asked, none=0.0),
        _share_hit(needed, asked, none=1.0),
        float(len(required)),
        math.log1p(len(_VALUE.findall(question))),
        math.log1p(numbers) - math.log1p(len(numeric)),
        float(numbers < len(numeric)),
        float(numbers == 0 and bool(numeric)),
        whole(unmatched) / max(whole(plain), 1e-9),
        whole(unmatched),
        max(map(weight, subject - asked), default=0.0),
        _hit(_trigrams(str(tool["name"]).replace("_", " ")), spoken),
        _hit(_trigrams(_description(tool)), spoken),
        math.log1p(len(_NAMED.findall(question))),
        length,
        float(bool(words) and words[0] in _ASKING),
        single,
        single * shares[best],
        single * length,
    ]


def _tool(value: Any) -> Mapping[str, Any] | None:
    if isinstance(value, dict) and isinstance(value.get("function"), dict):
        value = value["function"]  # as OpenAI's API has it
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return None
    return value if "parameters" in value or "description" in value else None


def _description(tool: Mapping[str, Any]) -> str:
    return str(tool.get("description") or "")


def _parameters(tool: Mapping[str, Any]) -> tuple[Mapping[str, Any], list[str]]:
    schema = tool.get("parameters")
    if not isinstance(schema, dict):
        return {}, []
    properties, required = schema.get("properties"), schema.get("required")
    return (
        properties if isinstance(properties, dict) else {},
        [str(name) for name in required] if isinstance(required, list) else [],
    )


def _kind(schema: Any) -> str:
    return str(schema.get("type")) if isinstance(schema, dict) else ""


def _strings(value: Any) -> Iterator[str]:
    """Names and descriptions in a schema; depth is bounded by the JSON decoder's own limit."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "properties" and isinstance(inner, dict):
                for name, schema in inner.items():
                    yield str(name)
                    yield from _strings(schema)
            elif key not in _SILENT:
                yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)
    elif isinstance(value, str):
        yield value


def _share_hit(names: Sequence[set[str]], asked: set[str], *, none: float) -> float:
    return sum(bool(name & asked) for name in names) / len(names) if names else none


def _trigrams(text: str) -> set[str]:
    words = (word.lower() for word in _TOKEN.findall(text))
    padded = (f" {word} " for word in words if word not in _STOP)
    return {word[i : i + 3] for word in padded for i in range(len(word) - 2)}


def _hit(wanted: set[str], there: set[str]) -> float:
    return len(wanted & there) / max(len(wanted), 1)
