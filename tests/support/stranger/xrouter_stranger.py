"""A package of somebody else's, as it stands in site-packages: it knows public names alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from xrouter_lg import ModelCard, RouteRequest
from xrouter_lg.verifiers import Case, Verdict, Verifier


def by_topic(word: str = "code") -> Callable[..., str]:
    """A policy: what speaks of ``word`` goes to the last card."""

    def topic(request: RouteRequest, candidates: Sequence[ModelCard]) -> str:
        return candidates[-1 if word in request.messages[-1].text else 0].name

    return topic


class Polite(Verifier):
    """Whether an answer says please."""

    name: ClassVar[str] = "polite"
    cases: ClassVar[Sequence[Case]] = (Case("Yes, please.", ""), Case("No.", "", good=False))

    def verify(self, answer: str, reference: Any, meta: Mapping[str, Any]) -> Verdict:
        return Verdict.of("please" in answer)


def diary(path: str) -> Iterator[dict[str, Any]]:
    """A trace source: a run a line, in LangSmith's schema."""
    yield from map(json.loads, Path(path).read_text().splitlines())


def cupboard(url: str) -> str:
    """A store that is a SQLite file below a folder."""
    return f"{url.removeprefix('cupboard://')}/traces.db"


def lost(url: str) -> str:
    """One whose error repeats what it was given."""
    raise KeyError(url)
