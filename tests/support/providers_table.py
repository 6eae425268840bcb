"""Provider × situation, as the tables in docs/providers.md.

python -m tests.support.providers_table     draws them anew from the tests below tests/providers
"""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

from tests.support.provider_matrix import PROVIDERS, ROWS, Row

ROOT = Path(__file__).parents[2]
DOC = ROOT / "docs" / "providers.md"
TESTS = ROOT / "tests" / "providers"
_DRAWN = re.compile(r"(<!-- drawn -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def rows() -> list[Row]:
    """The matrix, in the order of its tests."""
    for path in sorted(TESTS.glob("test_*.py")):
        import_module(f"tests.providers.{path.stem}")
    return sorted(ROWS, key=lambda row: (_SITUATIONS.index(row.situation), row.number))


def tables() -> str:
    """Cells by the numbers of their tests, the tests by number, and why a cell is not there."""
    numbered = dict(enumerate(rows(), 1))
    lines = ["| | " + " | ".join(_SITUATIONS) + " |", "|---" * (len(_SITUATIONS) + 1) + "|"]
    for name, provider in PROVIDERS.items():
        cells = [
            " ".join(
                str(number)
                for number, row in numbered.items()
                if row.situation == situation and name not in row.without
            )
            for situation in _SITUATIONS
        ]
        lines.append(f"| {provider.title} `[{name}]` | " + " | ".join(it or "–" for it in cells))
        lines[-1] += " |"
    lines += ["", "| | test below `tests/providers` | what it proves |", "|---|---|---|"]
    lines += [f"| {number} | `{row.test}` | {row.shows} |" for number, row in numbered.items()]
    lines += ["", "| not there | why |", "|---|---|"]
    for number, row in numbered.items():
        for reason in dict.fromkeys(row.without.values()):
            names = [PROVIDERS[name].title for name, why in row.without.items() if why == reason]
            lines.append(f"| {number} of {', '.join(names)} | {reason} |")
    return "\n".join(lines) + "\n"


def drawn() -> str:
    """The tables as the document has them."""
    found = _DRAWN.search(DOC.read_text(encoding="utf-8"))
    return "" if found is None else found[2]


_SITUATIONS = (
    "usage kinds",
    "own bill",
    "hosted tools",
    "endings",
    "cut stream",
    "tools untouched",
    "limits",
    "event loops",
    "files and images",
)


if __name__ == "__main__":
    text = DOC.read_text(encoding="utf-8")
    DOC.write_text(_DRAWN.sub(lambda m: m[1] + tables() + m[3], text, count=1), encoding="utf-8")
