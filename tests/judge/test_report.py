"""The page: what it says, and that nothing in a table becomes markup."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.judge.made import make_judged
from tests.support.grids import two_task_grid
from xrouter_lg.figures.bootstrap import Figure
from xrouter_lg.judge.report import render, write_report
from xrouter_lg.judge.report.page import clip, interval, plain, usd
from xrouter_lg.judge.run import Judged

EVIL = "</pre><script>alert(1)</script>{{ 7 * 7 }} & \"quoted\" 'single'"


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Judged:
    table = two_task_grid()
    table = replace(
        table,
        prompts=tuple(f"{text} {EVIL}" for text in table.prompts),
        families=tuple(f"{name}<b>" for name in table.families),
    )
    return make_judged(tmp_path_factory.mktemp("judged"), table, name="<i>made")


@pytest.fixture(scope="module")
def page(judged: Judged) -> str:
    return render(judged)


class Elements(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_page_stands_alone(page: str) -> None:
    found = Elements(page)
    assert not [tag for tag, _ in found.tags if tag in ("script", "iframe", "object", "img")]
    for tag, attributes in found.tags:
        for name in ("src", "href", "action", "data"):
            assert attributes.get(name) in (None, "data:,"), (tag, attributes)
        assert not [name for name in attributes if name.startswith("on")]
    assert "@import" not in page and "url(" not in page


def test_what_a_table_says_stays_text(page: str, judged: Judged) -> None:
    found = Elements(page)
    assert not [tag for tag, _ in found.tags if tag == "i" and "style" not in dict(_)]
    assert "<script" not in page and "49" not in re.findall(r"alert\(1\).{0,40}", page)[0]
    text = "".join(found.text)
    assert EVIL in text and "<i>made" in text and "sums<b>" in text


def test_the_page_shows_what_the_issue_asks_for(page: str, judged: Judged) -> None:
    text = " ".join("".join(Elements(page).text).split())
    for heading in (
        "Do not promote.",
        "Score against cost",
        "Against everything simpler, on both splits",
        "The gate at cost weight 0.3",
        "The dial",
        "Savings on these",
        "Routes per family",
        "Does it know what it knows?",
        "Worst regressions",
        "What was left out",
    ):
        assert heading in text, heading
    pool = judged.pools[0]
    assert interval(pool.policy_row.gain) in text
    assert pool.comparison is not None
    for row in pool.comparison.rows:
        assert row.name in text and interval(row.unseen_gain) in text


def test_a_verdict_against_it_names_what_to_use(judged: Judged) -> None:
    pool = judged.pools[0]
    assert pool.verdict is not None
    against = replace(pool.verdict, promote=False, use="the fixed model large", reasons=("Loses.",))
    page = render(replace(judged, pools=(replace(pool, verdict=against),)))
    text = " ".join("".join(Elements(page).text).split())
    assert "Do not promote. At cost weight 0.3 use the fixed model large instead." in text
    page = render(replace(judged, pools=(replace(pool, verdict=replace(against, promote=True)),)))
    assert "<b>Promote.</b>" in page and "Do not promote" not in page


def test_without_verdict_and_pools_the_page_still_stands(judged: Judged) -> None:
    pool = judged.pools[0]
    bare = replace(pool, verdict=None, comparison=None, over_knn=None, shuffle_row=None)
    assert "No verdict." in render(replace(judged, pools=(bare,)))
    assert "No pool has enough prompts" in render(replace(judged, pools=(), gain=None))


def test_the_json_lies_beside_the_page(judged: Judged, tmp_path: Path) -> None:
    beside = write_report(judged, tmp_path / "out" / "report.html")
    assert beside.name == "report.json"
    assert json.loads(beside.read_text())["checkpoint"]["version"] == judged.manifest.version
    assert sorted(p.name for p in beside.parent.iterdir()) == ["report.html", "report.json"]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "unknown"),
        (0.0, "$0"),
        (12345.6, "$12,346"),
        (3.14159, "$3.14"),
        (0.0033, "$0.00330"),
        (8.7e-6, "$0.00000870"),
    ],
)
def test_money_is_never_an_exponent(value: float | None, shown: str) -> None:
    assert usd(value) == shown


def test_what_was_not_reached_is_said() -> None:
    assert plain(Figure(None, None, None)) == "never reached"
    assert plain(Figure(0.25, 0.2, None)) == "25 % [20 %, never]"
    assert interval(None) == "not measured"
    assert interval(Figure(0.01, -0.002, 0.02)) == "+0.0100 [-0.0020, +0.0200]"


def test_a_long_prompt_keeps_head_and_tail() -> None:
    text = "a" * 3000 + "end"
    assert clip(text).startswith("aaa") and clip(text).endswith("end") and len(clip(text)) < 1300
    assert clip("short") == "short"
