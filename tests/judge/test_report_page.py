"""The report in a real headless Chromium: no error, nothing fetched, readable on a phone."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.judge.made import make_judged
from tests.support.grids import two_task_grid
from xrouter_lg.judge.report import write_report

sync_api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="apt-get install chromium")

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WIDTHS = (380, 1280)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    table = two_task_grid()
    long = "x" * 300  # a word that no line can hold
    table = replace(
        table, prompts=tuple(f"{p} <img src=x onerror=alert(1)> {long}" for p in table.prompts)
    )
    page = tmp_path_factory.mktemp("report") / "report.html"
    write_report(make_judged(page.parent, table, name="a_checkpoint_with_a_rather_long_name"), page)
    return page


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(params=WIDTHS)
def page(request: pytest.FixtureRequest, browser: object, report: Path) -> Iterator[object]:
    """The page at a width, with everything it said or asked for noted in `page.noted`."""
    page = browser.new_page(viewport={"width": request.param, "height": 800})  # type: ignore[attr-defined]
    page.noted = []
    page.on("console", lambda message: page.noted.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: page.noted.append(f"error: {error}"))
    page.on("dialog", lambda dialog: page.noted.append(f"dialog: {dialog.message}"))
    page.on("request", lambda asked: page.noted.append(f"request: {asked.url}"))
    page.goto(report.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    yield page
    page.close()


def test_it_says_nothing_on_the_console_and_asks_for_nothing(page: object, report: Path) -> None:
    noted = [line for line in page.noted if line != f"request: {report.as_uri()}"]  # type: ignore[attr-defined]
    assert [line for line in noted if not line.startswith("request: data:")] == []


def test_it_fits_the_width(page: object) -> None:
    wide = page.evaluate(  # type: ignore[attr-defined]
        "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    assert wide[0] <= wide[1]
    # Whatever is wider than the screen lies in a box that scrolls by itself.
    out = page.evaluate(  # type: ignore[attr-defined]
        """[...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll') &&
            !e.closest('svg') && e.getBoundingClientRect().right > innerWidth + 1)
            .map(e => e.outerHTML.slice(0, 80))"""
    )
    assert out == []


def test_its_text_can_be_read(page: object) -> None:
    smallest = page.evaluate(  # type: ignore[attr-defined]
        """Math.min(...[...document.querySelectorAll('svg text')].map(t =>
            t.getBoundingClientRect().height))"""
    )
    assert smallest >= 9, "labels of the charts, in pixels"
    small = page.evaluate(  # type: ignore[attr-defined]
        """[...document.querySelectorAll('p, td, th, li, summary, pre, small')].filter(e =>
            parseFloat(getComputedStyle(e).fontSize) < 12).length"""
    )
    assert small == 0


def test_its_charts_are_drawn_inside_their_pictures(page: object) -> None:
    shapes = page.evaluate("document.querySelectorAll('svg polyline, svg circle').length")  # type: ignore[attr-defined]
    assert shapes > 40
    outside = page.evaluate(  # type: ignore[attr-defined]
        """[...document.querySelectorAll('svg circle, svg polyline, svg text')].filter(e => {
            const a = e.getBoundingClientRect(), b = e.closest('svg').getBoundingClientRect();
            return a.left < b.left - 2 || a.right > b.right + 2 || a.top < b.top - 2 ||
                a.bottom > b.bottom + 2; }).map(e => e.outerHTML.slice(0, 90))"""
    )
    assert outside == []


def test_its_labels_do_not_cover_each_other(page: object) -> None:
    covered = page.evaluate(  # type: ignore[attr-defined]
        """[...document.querySelectorAll('svg')].flatMap(s => {
            const t = [...s.querySelectorAll(':scope > text')].map(e =>
                [e.textContent, e.getBoundingClientRect()]);
            return t.flatMap(([n, a], i) => t.slice(i + 1).filter(([m, b]) =>
                a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 3 &&
                b.top < a.bottom - 3).map(([m]) => n + ' / ' + m)); })"""
    )
    assert covered == []


def test_what_it_says_is_on_the_screen(page: object) -> None:
    text = page.inner_text("body")  # type: ignore[attr-defined]
    for words in ("Do not promote.", "kNN", "told the label", "Worst regressions", "onerror=alert"):
        assert words in text
    assert page.evaluate("document.querySelectorAll('img').length") == 0  # type: ignore[attr-defined]
