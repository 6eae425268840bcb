"""Scores of answers by the data set's verifiers."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from integrations.demo.recorded.task import SOURCE
from xrouter_lg.verifiers import Suite, Verdict

VERIFIERS = Path(__file__).with_name("verifiers.yaml")
_AT_ONCE = 2


class Scorer:
    """The verifiers of ``verifiers.yaml``, each proven; equal answers are judged once.

    Raises:
        UnprovenVerifierError: a verifier misjudges an answer whose verdict is known.
    """

    def __init__(self) -> None:
        self._suite = Suite.from_yaml(VERIFIERS)
        self._known: dict[tuple[str, str, str], Verdict] = {}
        try:
            for proof in self._suite.check():
                proof.raise_if_bad()
        except BaseException:
            self._suite.close()
            raise

    def __enter__(self) -> Scorer:
        return self

    def __exit__(self, *error: object) -> None:
        self._suite.close()

    def verdicts(self, asked: Iterable[tuple[str, str, str]]) -> list[Verdict]:
        """Verdicts on (family, answer, reference), in order; a verifier that failed gives one
        without a score."""
        wanted = list(asked)
        fresh = list(dict.fromkeys(key for key in wanted if key not in self._known))
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            self._known.update(zip(fresh, threads.map(self._verdict, fresh), strict=True))
        return [self._known[key] for key in wanted]

    def _verdict(self, key: tuple[str, str, str]) -> Verdict:
        family, answer, reference = key
        verifier = self._suite.verifier_for(SOURCE, family)
        if verifier is None:
            return Verdict(None, f"no verifier is for {SOURCE}/{family}")
        return verifier(answer, reference)
