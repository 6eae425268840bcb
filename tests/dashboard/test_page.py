"""The dashboard in a real headless Chromium: shown, live, escaped, by keyboard, on a phone."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.dashboard.conftest import HOSTILE, KEY
from tests.judge.test_live_traffic import run
from tests.judge.test_report_page import FLAGS
from xrouter_lg.checkpoints.aliases import read_alias

sync_api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="apt-get install chromium")

WAIT_MS = 90_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Any, shown: str) -> Iterator[Any]:
    """Opens the page, with what it said and asked for noted in `page.noted`."""
    pages = []

    def opened(at: str = shown, *, width: int = 1280, scheme: str = "light", key: str = KEY) -> Any:
        page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        pages.append(page)
        page.set_default_timeout(WAIT_MS)
        page.noted = []
        page.on("console", lambda message: page.noted.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: page.noted.append(f"error: {error}"))
        page.on("dialog", lambda dialog: page.noted.append(f"dialog: {dialog.message}"))
        page.on("request", lambda asked: page.noted.append(f"request: {asked.url}"))
        page.goto(f"{at}/dashboard#key={key}")
        if key == KEY:
            ready = "#figures:not([hidden])" if at == shown else "#versions-panel:not([hidden])"
            page.wait_for_selector(ready)
        return page

    yield opened
    for page in pages:
        page.close()


def test_it_shows_everything_and_fetches_nothing_from_elsewhere(visit: Any, shown: str) -> None:
    page = visit()
    text = page.inner_text("main")
    for words in (
        "Spend against one card for everything",
        "would have cost",
        "Where each kind goes",
        "worth exploring",
        "Fallbacks and health",
        "Drift",
        "Latest decisions",
        "may serve",
        "may not serve",
    ):
        assert words in text
    asked = [line for line in page.noted if line.startswith("request: ")]
    assert [
        line for line in asked if not line.startswith((f"request: {shown}/", "request: data:"))
    ] == []
    assert [line for line in page.noted if line not in asked] == []
    assert KEY not in page.evaluate("location.href")


def test_hostile_texts_are_only_texts(visit: Any) -> None:
    page = visit()
    assert HOSTILE in page.inner_text("#latest") and "because <img" in page.inner_text("#versions")
    page.click("#latest button")
    assert HOSTILE in page.inner_text("#latest .details")
    assert page.evaluate("document.querySelectorAll('main img, main script').length") == 0
    assert [line for line in page.noted if line.startswith(("dialog", "error"))] == []


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_it_fits_the_width(visit: Any, width: int) -> None:
    page = visit(width=width)
    wide = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert wide[0] <= wide[1]
    out = page.evaluate(
        """[...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll') &&
            !e.closest('svg') && !e.closest('.hidden') &&
            e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"""
    )
    assert out == []


def luminance(colour: str) -> float:
    """Relative luminance of ``rgb(r, g, b)``, as WCAG 2 defines it."""
    parts = [float(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    r, g, b = (p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_stand_out_in_light_and_dark(visit: Any, scheme: str) -> None:
    page = visit(scheme=scheme)
    pairs = page.evaluate(
        """[".soft", ".tile .name", ".tile .value", "th", "td", ".badge", "h2"].map(s => {
            const e = document.querySelector('main ' + s); let b = e;
            while (getComputedStyle(b).backgroundColor === 'rgba(0, 0, 0, 0)') b = b.parentElement;
            return [s, getComputedStyle(e).color, getComputedStyle(b).backgroundColor]; })"""
    )
    for name, ink, paper in pairs:
        high, low = sorted((luminance(ink), luminance(paper)), reverse=True)
        assert (high + 0.05) / (low + 0.05) >= 4.5, name
    assert (luminance(pairs[-1][2]) < 0.1) == (scheme == "dark")


def test_a_screen_reader_finds_names_for_everything(visit: Any) -> None:
    page = visit()
    nameless = page.evaluate(
        """[...document.querySelectorAll('button, input, [role=img], section')].filter(e =>
            !e.getAttribute('aria-label') && !e.getAttribute('aria-labelledby') &&
            !e.textContent.trim() && !document.querySelector(`label[for="${e.id || '-'}"]`)
        ).map(e => e.outerHTML.slice(0, 90))"""
    )
    assert nameless == []
    assert page.evaluate("document.documentElement.lang") == "en"
    assert page.evaluate("document.querySelectorAll('th:not([scope])').length") == 0
    levels = page.evaluate(
        """[...document.querySelectorAll('h1, h2, h3')].filter(e => e.offsetParent)
            .map(e => +e.tagName[1])"""
    )
    assert levels[0] == 1 and all(b - a <= 1 for a, b in pairwise(levels))


def test_a_wrong_key_shows_nothing_and_the_right_one_may_be_typed(visit: Any) -> None:
    page = visit(key="wrong-key-that-is-long-enough")
    page.wait_for_selector("#ask-key:not([hidden])")
    assert not page.is_visible("#figures") and not page.is_visible("#latest-panel")
    page.fill("#key", KEY)
    page.keyboard.press("Enter")
    page.wait_for_selector("#figures:not([hidden])")


def test_a_new_request_appears_by_itself(visit: Any, url: str, traces: Path) -> None:
    page = visit(url)
    run(traces, "fixed:small", ["asked while somebody looks"], feedback=False)
    page.locator("#latest", has_text="asked while somebody looks").wait_for()


def test_promoting_by_keyboard_asks_first(visit: Any, url: str, checkpoints: Path) -> None:
    page = visit(url)
    promote = page.get_by_role("button", name="Make better production")
    assert page.get_by_role("button", name="Make poor production").is_disabled()
    promote.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#confirm[open]")
    page.keyboard.press("Enter")  # the focus is on "Cancel"
    page.wait_for_selector("#confirm:not([open])", state="attached")
    assert read_alias(checkpoints, "production").checkpoint == "good"  # type: ignore[union-attr]
    promote.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#confirm[open]")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.locator("#moved", has_text="→").wait_for()
    assert read_alias(checkpoints, "production").checkpoint == "better"  # type: ignore[union-attr]
    page.get_by_role("button", name="Roll production back").click()
    page.click("#confirm-yes")
    page.locator("#versions", has_text="rolled back").wait_for()
    assert read_alias(checkpoints, "production").checkpoint == "good"  # type: ignore[union-attr]
