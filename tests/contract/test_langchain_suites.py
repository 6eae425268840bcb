"""LangChain's standard suites: what ``ChatOpenAI`` passes on a server, ``ChatXRouter`` passes."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import pytest

pytest.importorskip("langchain_tests")

SUITES = Path(__file__).with_name("suites") / "langchain_chat.py"
ROOT = Path(__file__).parents[2]
Outcomes = dict[str, dict[str, str]]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """``passed``, ``skipped`` or ``failed`` of every test, by class and by name. In a process of
    its own, for the suites bring plugins along."""
    report = tmp_path_factory.mktemp("suites") / "report.xml"
    options = [
        "-p",
        "no:cacheprovider",
        "--benchmark-disable",
        "-W",
        "ignore",
        f"--junitxml={report}",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", str(SUITES), *options],
        capture_output=True,
        text=True,
        timeout=540,
        cwd=ROOT,
    )
    assert report.exists(), done.stdout + done.stderr
    found: Outcomes = {}
    for case in ElementTree.parse(report).iter("testcase"):
        kinds = {part.tag for part in case}
        outcome = "failed" if kinds & {"failure", "error"} else "passed"
        outcome = "skipped" if "skipped" in kinds else outcome
        found.setdefault(case.attrib["classname"].split(".")[-1], {})[case.attrib["name"]] = outcome
    sys.stdout.writelines(f"{name:24}{dict(Counter(by.values()))}\n" for name, by in found.items())
    return found


@pytest.mark.parametrize(("suite", "least"), [("Unit", 10), ("Integration", 30)])
def test_the_router_passes_whatever_chatopenai_passes_on_the_same_server(
    suite: str, least: int, outcomes: Outcomes
) -> None:
    plain, routed = outcomes[f"TestPlain{suite}"], outcomes[f"TestRouted{suite}"]
    assert set(routed) == set(plain)
    passed = [name for name, outcome in plain.items() if outcome == "passed"]
    assert len(passed) >= least
    assert [name for name in passed if routed[name] != "passed"] == []


@pytest.mark.parametrize("suite", ["Unit", "Integration"])
def test_the_router_fails_none_of_them(suite: str, outcomes: Outcomes) -> None:
    routed = outcomes[f"TestRouted{suite}"]
    assert [name for name, outcome in routed.items() if outcome == "failed"] == []
