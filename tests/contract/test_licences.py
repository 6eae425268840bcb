"""What an installation brings may be used by whoever uses us."""

from __future__ import annotations

from importlib.metadata import Distribution

from tests.support.licences import JUDGED, doubtful, licence_of, shipped


def test_every_package_that_we_bring_has_a_licence_that_somebody_judged() -> None:
    assert doubtful() == {}
    assert {"langgraph", "langchain-core", "numpy"} <= set(shipped())


def test_a_licence_is_told_by_metadata_and_only_a_permissive_one_is_let_through() -> None:
    from tests.support.licences import _allowed

    assert _allowed("MIT") and _allowed("Apache-2.0 AND BSD-3-Clause")
    assert _allowed("MIT License; GNU General Public License v3 or later (GPLv3+)")
    assert not _allowed("GNU Affero General Public License v3")
    assert not _allowed("MIT AND GPL-3.0-only")
    assert not _allowed("")
    assert "MIT" in licence_of(next(Distribution.discover(name="langgraph")))
    assert all(len(why) > 5 for why in JUDGED.values())
