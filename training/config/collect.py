"""How traces become outcomes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class CollectConfig:
    """How traces become outcomes."""

    project: str = ""
    """Only this project's traces; all of a store's when empty."""
    verifiers: str = ""
    """A verifier file (``xrouter verifiers``) that scores the answers."""
    references: str = ""
    """JSON lines with ``prompt_id`` or ``prompt``, and ``reference``."""
    feedback_keys: tuple[str, ...] = ()
    """Feedback that scores what no verifier does; ``stars=1..5`` where its scale is not 0 to 1."""
    days: int = 90
    """How far back a LangSmith project is pulled."""
