"""Verifiers: (answer, reference) to a score in [0, 1], or None with a reason.

``build({"verifier": "unit_tests", "timeout_s": 5})`` makes one, ``verifier.check()`` lets it
prove itself on answers whose verdict is known, ``verifier(answer, reference)`` judges.
"""

from xrouter_lg.verifiers.base import (
    Case,
    CaseResult,
    CheckReport,
    SupportsVerify,
    UnprovenVerifierError,
    Unverifiable,
    Verdict,
    Verifier,
    VerifierConfigError,
)
from xrouter_lg.verifiers.registry import Rule, Suite, build, names, needs_arguments, register

__all__ = [
    "Case",
    "CaseResult",
    "CheckReport",
    "Rule",
    "Suite",
    "SupportsVerify",
    "UnprovenVerifierError",
    "Unverifiable",
    "Verdict",
    "Verifier",
    "VerifierConfigError",
    "build",
    "names",
    "needs_arguments",
    "register",
]
