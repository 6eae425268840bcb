"""How traces become outcomes."""

from __future__ import annotations

from pydantic.dataclasses import dataclass

from training.config.settings import SETTINGS, Location, Text, Whole


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class CollectConfig:
    """How traces become outcomes."""

    project: Text = ""
    """Only this project's traces; all of a store's when empty."""
    verifiers: Location = ""
    """A verifier file (``xrouter verifiers``) that scores the answers."""
    references: Location = ""
    """JSON lines with ``prompt_id`` or ``prompt``, and ``reference``."""
    feedback_keys: tuple[str, ...] = ()
    """Feedback that scores what no verifier does; ``stars=1..5`` where its scale is not 0 to 1."""
    days: Whole = 90
    """How far back a LangSmith project is pulled."""
