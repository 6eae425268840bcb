"""Does whoever serves a checkpoint compute what its training computed?

A checkpoint carries ``probe.json``: a few fixed questions and the contrasts
``logit(slot) - logit(anchor)`` of its cards on them, in float32. The base without its adapter,
another adapter or another base moves contrasts by a nat and more; half precision moves them by
hundredths, four-bit weights by a tenth (docs/serving.md). So a few prompts tell a stale or foreign
server from a merely rounded one, whatever names it reports.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from langchain_core.messages import HumanMessage

from xrouter_lg.checkpoints.manifest import CheckpointError, Manifest
from xrouter_lg.prompts import slots

PROBE_FILE = "probe.json"

TOLERANCE = 0.3
"""Mean difference of contrasts, in nats, above which weights count as others."""

_QUESTIONS = (
    "What is the capital of France? Answer with one word.",
    "Tom has 48 marbles and gives a third of them to his sister. How many are left?",
    "def f(text):\n    return ''.join(sorted(text))[::-1]\nassert f('abca') == ??",
)


@dataclass(frozen=True, slots=True)
class Probe:
    """Rendered questions, and the contrasts of every trained card on each."""

    questions: tuple[str, ...]
    contrasts: tuple[tuple[float, ...], ...]


def probe_questions() -> tuple[str, ...]:
    """The questions that a new checkpoint is measured on, rendered."""
    return tuple(slots.render_question([HumanMessage(text)]) for text in _QUESTIONS)


def load_probe(folder: Path, manifest: Manifest) -> Probe | None:
    """The probe of a checkpoint; None where it was written without one.

    Raises:
        CheckpointError: the file is no probe of these cards.
    """
    path = folder / PROBE_FILE
    if not path.is_file():
        return None
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        probe = Probe(
            tuple(str(text) for text in data["questions"]),
            tuple(tuple(float(value) for value in row) for row in data["contrasts"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{str(path)!r} can't be read: {error!r}; copy it again") from error
    widths = {len(row) for row in probe.contrasts}
    if len(probe.questions) != len(probe.contrasts) or widths != {len(manifest.cards)}:
        raise CheckpointError(
            f"{str(path)!r} does not fit the manifest's {len(manifest.cards)} cards; copy it again"
        )
    return probe


def check_probe(probe: Probe, found: Sequence[Sequence[float]], where: str) -> float:
    """Compare contrasts with the recorded ones; their mean difference in nats.

    Raises:
        CheckpointError: these are other weights.
    """
    pairs = [
        abs(one - other)
        for row, expected in zip(found, probe.contrasts, strict=True)
        for one, other in zip(row, expected, strict=True)
    ]
    mean = sum(pairs) / len(pairs)
    if not mean <= TOLERANCE or not math.isfinite(mean):
        raise CheckpointError(
            f"{where} does not compute what this checkpoint was trained to: on "
            f"{len(probe.questions)} recorded prompts its log-odds differ by {mean:.3g} on average "
            f"(at most {TOLERANCE:g} is rounding). It serves other weights: the base without the "
            "adapter, an older checkpoint, or another model. Load this checkpoint there, or name "
            "the one that it serves"
        )
    return mean


def write_probe(folder: Path, manifest: Manifest, *, base: Path | None = None) -> None:
    """Measure and write the probe of weights and tokenizer that lie in ``folder`` already; for
    whoever writes checkpoints, before files are hashed. ``base`` is needed for an adapter."""
    from xrouter_lg.policies.slots.torch_engine import Engine

    engine = Engine(manifest, folder, base)
    try:
        questions = probe_questions()
        contrasts = engine.contrasts_of(questions)
    finally:
        engine.close()
    data = {"questions": questions, "contrasts": contrasts}
    folder.joinpath(PROBE_FILE).write_text(json.dumps(data, indent=1), encoding="utf-8")
