"""What became of the traces that a table was built from."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from xrouter_lg.episodes.extract import ExtractReport
from xrouter_lg.episodes.propensity import CONTRADICTS
from xrouter_lg.verifiers.grading import ScoreReport


@dataclass
class BuildReport:
    """What became of the traces."""

    extracted: ExtractReport = field(default_factory=ExtractReport)
    scores: ScoreReport = field(default_factory=ScoreReport)
    """Of every answer; several may be one outcome."""
    failed_calls: int = 0
    """Calls without an answer in episodes that had one: no outcome, whatever they cost."""
    answers: int = 0
    prompts: int = 0
    outcomes: int = 0
    scored: int = 0
    unpriced: int = 0
    """Outcomes whose cost is unknown."""
    known_propensity: int = 0
    """Outcomes of which the log tells with what probability their card was called."""
    drawn: int = 0
    """Outcomes among them of a draw: another card could have been called."""
    unknown_propensity: Counter[str] = field(default_factory=Counter)
    """Answers without a propensity, by reason."""
    feedback: int = 0
    """Outcomes that users said something about."""
    judged_twice: int = 0
    """Outcomes among them that a verifier scored: what thumbs are worth is estimated there."""
    cut: int = 0
    """Answers that users spoke of and that were cut short: what they said counts, for that is what
    they were served."""
    ahead: int = 0
    """Answers more than a day newer than the newest trace, or than now: some clock is wrong."""

    @property
    def warnings(self) -> list[str]:
        """What should be looked at, in words."""
        found = []
        if self.ahead:
            found.append(
                f"{self.ahead} answers bear a time more than a day after the newest trace or now: "
                "a clock is wrong, and all else counts as older than it is"
            )
        if wrong := self.unknown_propensity[CONTRADICTS]:
            found.append(
                f"{wrong} answers bear a propensity that contradicts the log: it is left empty"
            )
        if self.known_propensity and not self.drawn:
            found.append(
                "nothing was drawn: this log tells how each card does on the requests that it was "
                "given, and nothing of the others"
            )
        return found

    def to_dict(self) -> dict[str, Any]:
        return {
            "traces": self.extracted.traces,
            "episodes": self.extracted.episodes,
            "routed": self.extracted.routed,
            "skipped": dict(self.extracted.skipped.most_common()),
            "failed_calls": self.failed_calls,
            "answers": self.answers,
            "prompts": self.prompts,
            "outcomes": self.outcomes,
            "scored": self.scored,
            "unpriced": self.unpriced,
            "known_propensity": self.known_propensity,
            "drawn": self.drawn,
            "unknown_propensity": dict(self.unknown_propensity.most_common()),
            "feedback": self.feedback,
            "judged_twice": self.judged_twice,
            "feedback_on_cut_answers": self.cut,
            "lost_feedback": dict(self.extracted.lost_feedback.most_common()),
            "warnings": self.warnings,
            "answers_scored": self.scores.scored,
            **{k: v for k, v in self.scores.to_dict().items() if k != "scored"},
        }
