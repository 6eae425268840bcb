"""Under which licences stands what an installation with every extra of ours brings?

    python -m tests.support.licences

Read from the metadata of what is installed here; exits with 1 where something has a licence that
is not on the list, or tells none.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

OURS = "xrouter_lg"
_NOT_SHIPPED = frozenset({"dev"})
"""Extras of who works on the project."""

PERMISSIVE = re.compile(
    r"\b(?:MIT|MIT-0|MIT-CMU|0BSD|BSD|Apache|ISC|ISCL|PSF|Python Software Foundation|Zlib|zlib|"
    r"CC0|CNRI|BSL-1|Boost|Unlicense|Public Domain|MPL|Mozilla|HPND)\b",
    re.IGNORECASE,
)
"""One of these is enough where a package offers several. The MPL asks for the changes of its own
files alone."""

JUDGED = {
    "psycopg": "LGPL-3.0-only: used as a library, unchanged, and exchangeable by who installs it",
    "psycopg-binary": "as psycopg",
    "psycopg-pool": "as psycopg",
}
"""Packages under other licences, and why they may be used."""


def shipped(name: str = OURS) -> dict[str, Distribution]:
    """What is installed of all that a distribution requires with every extra, and what that does,
    by name."""
    found: dict[str, Distribution] = {}
    waiting = [(name, extra) for extra in ("", *_extras(name))]
    seen: set[tuple[str, str]] = set()
    while waiting:
        at = waiting.pop()
        if at in seen:
            continue
        seen.add(at)
        try:
            own = distribution(at[0])
        except PackageNotFoundError:
            continue  # of another platform, or of an extra that is not installed here
        if at[0] != name:
            found[at[0]] = own
        waiting += _required(own, at[1])
    return found


def licence_of(own: Distribution) -> str:
    """The licence by a package's own metadata: its expression, its classifiers, or its field."""
    told = own.metadata
    (expression, *_) = told.get_all("License-Expression") or [""]
    classifiers = [
        line.rsplit("::", 1)[-1].strip()
        for line in told.get_all("Classifier") or []
        if line.startswith("License ::")
    ]
    (field, *_) = told.get_all("License") or [""]
    return expression or "; ".join(classifiers) or field.strip().split("\n")[0][:80]


def doubtful() -> dict[str, str]:
    """Packages under a licence that nobody has judged, with what they say."""
    found = {name: licence_of(own) for name, own in shipped().items() if name not in JUDGED}
    return {name: said or "tells none" for name, said in found.items() if not _allowed(said)}


def _allowed(said: str) -> bool:
    every = re.split(r"\bAND\b", said)
    return all(PERMISSIVE.search(part) for part in every)


def _extras(name: str) -> list[str]:
    told = distribution(name).metadata.get_all("Provides-Extra") or []
    return [extra for extra in told if extra not in _NOT_SHIPPED]


def _required(own: Distribution, extra: str) -> Iterator[tuple[str, str]]:
    for line in own.requires or ():
        wanted = Requirement(line)
        if wanted.marker is None or wanted.marker.evaluate({"extra": extra}):
            name = canonicalize_name(wanted.name)
            yield from ((name, more) for more in ("", *wanted.extras))


if __name__ == "__main__":
    bad = doubtful()
    for name, said in sorted(bad.items()):
        sys.stdout.write(f"{name}: {said}\n")
    sys.stdout.write(f"{len(shipped())} packages, {len(bad)} under a licence nobody has judged\n")
    sys.exit(bool(bad))
