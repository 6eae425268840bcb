"""The document's matrix of providers is the one that the tests have."""

from __future__ import annotations

from tests.support.providers_table import drawn, tables


def test_the_tables_show_the_cells_of_the_tests() -> None:
    assert drawn() == tables(), "run: python -m tests.support.providers_table"
