"""Verdicts on many answers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from xrouter_lg.outcomes import OutcomeError, OutcomeTable
from xrouter_lg.types import Charge
from xrouter_lg.verifiers import Suite, Verdict, Verifier
from xrouter_lg.verifiers.grading import (
    NO_ANSWER,
    Grade,
    ScoreReport,
    Scoring,
    Submission,
    Verdicts,
)
from xrouter_lg.verifiers.registry import Rule
from xrouter_lg.verifiers.score_table import score_table

ROOT = Path(__file__).resolve().parents[2]


class Counting(Verifier):
    """Says 1 for answers with a "good" in them; counts, and fails where it is told to."""

    name = "counting"

    def __init__(self, cost: Decimal | None = None) -> None:
        super().__init__()
        self.asked: list[tuple[str, Any, Mapping[str, Any]]] = []
        self.cost = cost
        self.fail = False

    def verify(self, answer: str, reference: Any, meta: Mapping[str, Any]) -> Verdict:
        self.asked.append((answer, reference, meta))
        if self.fail:
            raise ValueError("broken")
        charge = Charge(
            kind="judge",
            card="judge",
            model="judge",
            attempt=1,
            usage=None,
            cost_usd=self.cost,
            price_source=None,
            latency_s=0.0,
        )
        score = 1.0 if "good" in answer else 0.0
        return Verdict(score, "", () if self.cost is None else (charge,))


def suite(verifier: Verifier, settings: str = "") -> Suite:
    return Suite([Rule(verifier, ("*",), settings)])


def answers(*texts: str | None, **changes: Any) -> list[Submission]:
    same: dict[str, Any] = {"key": ("s", "t", "1"), "prompt": "q"}
    return [Submission(**{**same, "text": text, **changes}) for text in texts]


def scores(
    scoring: Scoring, given: list[Submission], report: ScoreReport | None = None
) -> list[Any]:
    return [scored.score for scored in scoring.score(given, report or ScoreReport())]


def test_scores_come_in_the_order_of_the_answers() -> None:
    texts = ["good" if n % 3 == 0 else "bad" for n in range(600)]
    scoring = Scoring(suite=suite(Counting()), concurrency=8)
    assert scores(scoring, answers(*texts)) == [float(t == "good") for t in texts]


def test_verdicts_are_made_several_at_a_time() -> None:
    together = threading.Barrier(4, timeout=30)

    class Waiting(Counting):
        def verify(self, answer: str, reference: Any, meta: Mapping[str, Any]) -> Verdict:
            together.wait()
            return Verdict(1.0)

    assert scores(Scoring(suite=suite(Waiting()), concurrency=4), answers(*"abcd")) == [1.0] * 4


def test_a_verifier_reads_the_question_but_not_what_it_takes_to_ask_again() -> None:
    verifier = Counting()
    meta = {"messages": [1], "tools": [2], "entry_point": "f"}
    given = answers("a", meta=meta, reference="r", feedback=({"key": "k"},))
    scores(Scoring(suite=suite(verifier)), given)
    ((_, reference, seen),) = verifier.asked
    assert reference == "r"
    assert seen == {"prompt": "q", "entry_point": "f", "feedback": [{"key": "k"}]}


def test_what_could_not_be_judged_is_counted_by_its_reason() -> None:
    verifier, report = Counting(), ScoreReport()
    verifier.fail = True
    only = Suite([Rule(verifier, ("s/*",))])
    given = [*answers("a", None), *answers("b", key=("other", "t", "1"))]
    assert scores(Scoring(suite=only), given, report) == [None, None, None]
    assert report.unscored == {
        "the verifier failed: ValueError: broken": 1,
        NO_ANSWER: 1,
        "no verifier is for other/t": 1,
    }


def test_many_different_reasons_are_told_in_few_lines() -> None:
    report = ScoreReport()
    for number in range(50):
        report.unscored[f"reason {number}"] += 1
    told = report.to_dict()["unscored"]
    assert len(told) == 21
    assert told["other reasons"] == 30


def test_what_verdicts_cost_is_on_the_report() -> None:
    report = ScoreReport()
    scores(Scoring(suite=suite(Counting(Decimal("0.25")))), answers("a", "b"), report)
    assert report.cost_usd == Decimal("0.5")


def test_no_verdict_at_a_time_is_refused() -> None:
    with pytest.raises(OutcomeError, match="concurrency is 0"):
        Scoring(concurrency=0)


# --- verdicts that are kept --------------------------------------------------------------------


def kept(path: Path, verifier: Verifier, settings: str = "g") -> Scoring:
    return Scoring(suite=suite(verifier, settings), verdicts=Verdicts(path))


def test_a_verdict_is_made_once(tmp_path: Path) -> None:
    path, report = tmp_path / "v.jsonl", ScoreReport()
    scores(kept(path, Counting()), answers("good", "bad"))
    later = Counting()
    assert scores(kept(path, later), answers("good", "bad", "new"), report) == [1.0, 0.0, 0.0]
    assert [text for text, _, _ in later.asked] == ["new"]
    assert report.reused == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt": "other"},
        {"reference": "other"},
        {"meta": {"entry_point": "f"}},
        {"call": "another"},
    ],
)
def test_another_question_or_call_is_judged_anew(tmp_path: Path, changes: dict[str, Any]) -> None:
    scores(kept(tmp_path / "v", Counting()), answers("good"))
    later = Counting()
    scores(kept(tmp_path / "v", later), answers("good", **changes))
    assert len(later.asked) == 1


def test_a_verifier_with_other_settings_judges_anew(tmp_path: Path) -> None:
    scores(kept(tmp_path / "v", Counting(), "one"), answers("good"))
    later = Counting()
    scores(kept(tmp_path / "v", later, "two"), answers("good"))
    assert len(later.asked) == 1


def test_a_failed_verdict_is_tried_again(tmp_path: Path) -> None:
    verifier = Counting()
    verifier.fail = True
    scores(kept(tmp_path / "v", verifier), answers("good"))
    verifier.fail = False
    assert scores(kept(tmp_path / "v", verifier), answers("good")) == [1.0]


def test_a_failure_is_kept_with_its_reason(tmp_path: Path) -> None:
    verifier = Counting()
    verifier.fail = True
    scores(kept(tmp_path / "v", verifier), answers("good"))
    (of,) = answers("good")
    found = Verdicts(tmp_path / "v").find(verifier, "g", of)
    assert found == Grade(None, "counting", "the verifier failed: ValueError: broken")


def test_the_newest_verdict_counts(tmp_path: Path) -> None:
    (of,), verifier = answers("good"), Counting()
    with Verdicts(tmp_path / "v") as verdicts:
        assert verdicts.find(verifier, "g", of) is None
        verifier.fail = True
        verdicts.make(verifier, "g", of)
        verifier.fail = False
        verdicts.make(verifier, "g", of)
    with Verdicts(tmp_path / "v") as verdicts:
        assert verdicts.find(verifier, "g", of) == Grade(1.0, "counting")
        assert verdicts.find(verifier, "another", of) is None


def test_a_verdict_that_cant_be_written_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "v").mkdir()
    (of,) = answers("good")
    verdicts = Verdicts(None)
    verdicts.path = tmp_path / "v"
    with pytest.raises(OutcomeError, match=r"the verdicts .*v can't be written"):
        verdicts.make(Counting(), "g", of)


def test_known_cases_are_no_settings_of_a_verifier() -> None:
    plain: dict[str, Any] = {"verifier": "regex", "pattern": "a"}
    proven = {**plain, "where": "s/*", "good": [{"answer": "a"}], "bad": [{"answer": "b"}]}
    other = {**plain, "pattern": "b"}
    digests = [rule.digest for rule in Suite.from_specs([plain, proven, other]).rules]
    assert digests[0] == digests[1] != digests[2]


def test_a_half_written_line_loses_itself_only(tmp_path: Path) -> None:
    path = tmp_path / "v"
    scores(kept(path, Counting()), answers("good", "bad"))
    path.write_bytes(path.read_bytes()[:-9])
    later = Counting()
    scores(kept(path, later), answers("good", "bad"))
    assert len(later.asked) == 1
    last = Counting()
    scores(kept(path, last), answers("good", "bad"))
    assert last.asked == []


def test_an_interrupted_run_keeps_its_verdicts(tmp_path: Path) -> None:
    def until_the_third() -> None:
        scoring = kept(tmp_path / "v", Counting())
        for number, _ in enumerate(scoring.score(answers(*"abcdef"), ScoreReport()), 1):
            if number == 3:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        until_the_third()
    assert len(Verdicts(tmp_path / "v")) >= 3


_KILLED = """
import sys, time
from xrouter_lg.verifiers.grading import Scoring, ScoreReport, Submission, Verdicts
from xrouter_lg.verifiers import Suite, Verdict, Verifier
from xrouter_lg.verifiers.registry import Rule

class Slow(Verifier):
    name = "counting"
    def verify(self, answer, reference, meta):
        time.sleep(0.01)
        return Verdict(1.0)

given = [Submission(key=("s", "t", "1"), text=str(n), prompt="q") for n in range(2000)]
scoring = Scoring(suite=Suite([Rule(Slow(), ("*",), "g")]), verdicts=Verdicts(sys.argv[1]))
for number, _ in enumerate(scoring.score(given, ScoreReport()), 1):
    if number == 20:
        print("going", flush=True)
"""


def test_a_killed_run_has_kept_what_was_judged(tmp_path: Path) -> None:
    path = tmp_path / "v"
    process = subprocess.Popen(
        [sys.executable, "-c", _KILLED, str(path)], cwd=ROOT, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"going\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    before = len(Verdicts(path))
    assert 20 <= before < 2000
    later = Counting()
    scores(kept(path, later), answers(*map(str, range(before + 10))))
    assert len(later.asked) == 10


# --- tables ------------------------------------------------------------------------------------

KEY = {"source": "s", "task": "t"}


def a_table() -> OutcomeTable:
    return OutcomeTable.from_rows(
        [
            {**KEY, "prompt_id": "1", "model": "a", "score": None, "response": "Paris"},
            {**KEY, "prompt_id": "1", "model": "b", "score": 0.25, "response": "Paris"},
            {**KEY, "prompt_id": "1", "model": "c", "score": None, "response": None},
            {**KEY, "prompt_id": "2", "model": "a", "score": None, "response": "Rom"},
        ],
        [
            {**KEY, "prompt_id": "1", "prompt": "capital?", "reference": "Paris"},
            {**KEY, "prompt_id": "2", "prompt": "and Italy's?", "reference": None},
        ],
    )


def test_empty_scores_are_filled_and_others_kept() -> None:
    told: list[tuple[int, int]] = []
    filled, report = score_table(
        a_table(), Suite.from_specs(["exact"]), progress=lambda *step: told.append(step)
    )
    frame = filled.outcomes.collect()
    assert frame["score"].to_list() == [1.0, 0.25, None, None]
    assert frame["scored_by"].to_list() == ["exact", None, None, None]
    assert report.scored == 1
    assert report.unscored[NO_ANSWER] == 1
    assert told[-1] == (3, 3)


def test_references_may_be_given_beside_the_table() -> None:
    scoring = Scoring(suite=Suite.from_specs(["exact"]), references={"and italy's?": "Rom"})
    filled, _ = score_table(a_table(), scoring)
    assert filled.outcomes.collect()["score"].to_list() == [1.0, 0.25, None, 1.0]


def test_a_table_is_scored_into_its_own_folder(tmp_path: Path) -> None:
    a_table().write(tmp_path)
    filled, _ = score_table(OutcomeTable.load(tmp_path), Suite.from_specs(["exact"]))
    filled.write(tmp_path)
    assert pl.read_parquet(tmp_path / "outcomes.parquet")["score"].to_list() == [
        1,
        0.25,
        None,
        None,
    ]


def test_a_table_without_answers_has_nothing_to_score() -> None:
    frame = pl.DataFrame({**{k: [v] for k, v in KEY.items()}, "prompt_id": ["1"], "model": ["a"]})
    frame = frame.with_columns(pl.lit(None, pl.Float64).alias("score"))
    asked = frame.select("source", "task", "prompt_id").with_columns(pl.lit("q").alias("prompt"))
    table = OutcomeTable.from_frames(frame, asked)
    _, report = score_table(table, Suite.from_specs(["exact"]))
    assert report.unscored == {NO_ANSWER: 1}
