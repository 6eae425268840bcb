"""How the answers of traces get their scores, as files and options say it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from xrouter_lg.json_text import shown
from xrouter_lg.outcomes.schema import OutcomeError, normalise_prompt
from xrouter_lg.verifiers import Suite
from xrouter_lg.verifiers.feedback import Feedback
from xrouter_lg.verifiers.grading import VERDICTS_FILE, Scoring, Verdicts


def read_references(path: str | Path) -> dict[str, Any]:
    """References by prompt id or normalised prompt text, from JSON lines with ``prompt_id`` or
    ``prompt``, and ``reference``.

    Raises:
        OutcomeError: no such file, a line without these, or two references for one prompt.
    """
    found: dict[str, Any] = {}
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise OutcomeError(f"{path}: can't be read: {error}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            key = str(row["prompt_id"] if row.get("prompt_id") else normalise_prompt(row["prompt"]))
            reference = row["reference"]
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise OutcomeError(
                f"{path}, line {number} is {shown(line)}; it must be JSON with `prompt_id` or "
                "`prompt`, and `reference`"
            ) from error
        if found.setdefault(key, reference) != reference:
            raise OutcomeError(
                f"{path}, line {number}: another line has another reference for this prompt; keep "
                "one"
            )
    return found


def feedback_verifiers(options: Sequence[str]) -> tuple[Feedback, ...]:
    """A verifier for each scale, in the order in which the options name them: a feedback key, or
    ``key=1..5`` where its scale is not 0 to 1.

    Raises:
        OutcomeError: an option that is neither.
    """
    by_scale: dict[tuple[float, float], list[str]] = {}
    for option in options:
        key, equals, scale = option.partition("=")
        number = r"(-?\d+(?:\.\d+)?)"
        found = re.fullmatch(rf"{number}\.\.{number}", scale)
        if not key or (equals and not found):
            raise OutcomeError(
                f"{option!r}; name a feedback key, and its scale unless that is 0 to 1: stars=1..5"
            )
        bounds = (float(found[1]), float(found[2])) if found else (0.0, 1.0)
        if not bounds[0] < bounds[1]:
            raise OutcomeError(
                f"feedback key {key!r} has the scale {scale!r}; its numbers must rise: {key}=1..5"
            )
        by_scale.setdefault(bounds, []).append(key)
    return tuple(Feedback(keys=keys, scale=scale) for scale, keys in by_scale.items())


@contextmanager
def open_scoring(
    folder: str | Path,
    verifiers: str | Path | None,
    *,
    references: str | Path | None = None,
    feedback: tuple[Feedback, ...] = (),
    concurrency: int = 4,
) -> Iterator[Scoring]:
    """Scoring by files, every verifier proven on its known cases first. Verdicts are kept in
    ``folder``; those of a verifier with other settings don't count.

    Raises:
        OutcomeError, VerifierError: a file can't be read, or a verifier fails its own cases.
    """
    right = {} if references is None else read_references(references)
    if verifiers is None:
        yield Scoring(feedback=feedback, references=right, concurrency=concurrency)
        return
    with Suite.from_yaml(verifiers) as suite:
        for proof in suite.check():
            proof.raise_if_bad()
        with Verdicts(Path(folder) / VERDICTS_FILE) as verdicts:
            yield Scoring(
                suite=suite,
                feedback=feedback,
                references=right,
                concurrency=concurrency,
                verdicts=verdicts,
            )
