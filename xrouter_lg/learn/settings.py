"""What is learned from every night, and what may come of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from xrouter_lg.calls.money import parse_usd
from xrouter_lg.errors import ConfigurationError
from xrouter_lg.fitting.read_lesson import LessonSettings

CANDIDATE, PRODUCTION = "candidate", "production"
"""Aliases: what a canary serves, and what serves."""


@dataclass(frozen=True, kw_only=True)
class LearnSettings:
    """One app's learning. The same settings, run again, go on where they were left."""

    folder: Path
    """Working folder: the outcome table, bought answers, reports, and what was done."""
    store: str
    """Path or URL of the trace store."""
    checkpoints: Path = Path("checkpoints")
    """Where checkpoints and aliases are."""
    langsmith: str | None = None
    """LangSmith project whose new traces are pulled into the store first."""
    project: str | None = None
    """Only traces of the store that were recorded under this project."""
    since: datetime | None = None
    """Only traces from then on. All of the store's where None; of LangSmith's those of the last
    thirty days, or since the last pull."""
    pool: Path | None = None
    """Pool file: names and prices, and whom answers are bought from."""
    feedback: tuple[str, ...] = ()
    """Feedback keys that score answers, as ``KEY`` or ``KEY=1..5``."""
    verifiers: Path | None = None
    """YAML list of verifiers."""
    bought_verifiers: Path | None = None
    """YAML list of verifiers for bought answers, of which no user says anything; None takes
    ``verifiers``. A judge that is named here is paid within the budget; as one of ``verifiers`` it
    would grade every answer of the log as well."""
    references: Path | None = None
    """Right answers as JSON lines."""
    budget_usd: Decimal | float | str | None = None
    """The most that buying may cost in this run (USD); None, or 0, buys nothing."""
    cost_weight: float = 0.3
    """λ in use: what is concluded is concluded there."""
    canary: bool = False
    """Let the alias ``candidate`` point to a checkpoint that is not shown to be better, and not
    shown to be worse: a policy ``ab:production=0.9,candidate=0.1`` then finds out."""
    min_prompts: int = 100
    """Fewer scored prompts than this are not learned from."""
    rename: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.budget_usd is not None and str(self.budget_usd).strip("0.") == "":
            object.__setattr__(self, "budget_usd", None)
        if self.budget_usd is not None:
            object.__setattr__(self, "budget_usd", parse_usd(self.budget_usd, "budget_usd"))
        if self.cost_weight < 0:
            raise ConfigurationError(
                f"the cost weight is {self.cost_weight!r}; it must be 0 or more"
            )
        if self.budget > 0 and self.pool is None:
            raise ConfigurationError(
                f"${self.budget} are to be spent, but on whom? Name the pool file (--pool)"
            )

    @property
    def budget(self) -> Decimal:
        """USD that may be spent."""
        assert self.budget_usd is None or isinstance(self.budget_usd, Decimal)
        return self.budget_usd or Decimal(0)

    @property
    def outcomes(self) -> Path:
        return self.folder / "outcomes"

    @property
    def lesson(self) -> LessonSettings:
        return LessonSettings(
            rename=self.rename,
            pool="" if self.pool is None else str(self.pool),
            min_prompts=self.min_prompts,
        )

    def told(self) -> dict[str, Any]:
        """What decides what is learned: with the same of these and the same outcomes there is
        nothing new."""
        return {
            "feedback": list(self.feedback),
            "cost_weight": self.cost_weight,
            "min_prompts": self.min_prompts,
            "rename": dict(self.rename),
            "canary": self.canary,
        }
