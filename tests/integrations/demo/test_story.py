"""The whole demo on few requests: every stage runs, hears nothing it must not hear, and can be
stopped at any point."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from rich.console import Console

from integrations.demo import app, users
from integrations.demo.closing import AFTER, BEFORE
from integrations.demo.questions import History, load
from integrations.demo.run import run
from integrations.demo.story import RELEASES, Settings, Story
from xrouter_lg.outcomes import OutcomeTable
from xrouter_lg.tracing.store.trace_store import TraceStore

pytestmark = pytest.mark.timeout(600)
BUDGET_USD = 0.0005


def console() -> Console:
    return Console(file=io.StringIO(), width=200)


def said_to(console: Console) -> str:
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def kept_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "demo.json").read_text())["kept"]  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, History, str]:
    """A run in which every user speaks, since few ask."""
    folder, history, said = tmp_path_factory.mktemp("demo"), load(per_family=12), console()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(users, "THUMBS", 1.0)
        run(history, Settings(folder=folder, budget_usd=BUDGET_USD, min_prompts=50), said)
    return folder, history, said_to(said)


def test_three_weeks_end_in_a_table_of_both_worlds(told: tuple[Path, History, str]) -> None:
    folder, history, said = told
    figures = json.loads((folder / "figures.json").read_text())
    assert figures["held_out"] == len(history.held_out)
    for world, names in ((BEFORE, ["after night 1", "after night 2"]), (AFTER, ["after night 3"])):
        arms = [arm["name"] for arm in figures[world]["arms"]]
        assert arms[:4] == ["always tiny", "always small", "always large", "day-one rules"]
        assert set(names) < set(arms) and arms[-1] == "its shuffle"
    assert said.index("Week 1.") < said.index("Night 2.") < said.index("Week 3.")
    assert said.count("$ xrouter learn") == 3


def test_nothing_that_learns_is_told_a_label_or_a_right_answer(
    told: tuple[Path, History, str],
) -> None:
    folder, _, _ = told
    table = OutcomeTable.load(folder / "learning" / "outcomes")
    prompts = table.prompts.collect()
    assert set(prompts["category"]) == {"traces"} and set(prompts["reference"]) == {None}
    outcomes = table.outcomes.collect()
    by = {"feedback": pl.col("propensity").is_not_null(), "judge": pl.col("propensity").is_null()}
    for name, how in by.items():
        own = outcomes.filter(pl.col("scored_by") == name)
        assert own.height > 0 and own.filter(how).height == own.height
    with TraceStore(folder / "traces.db", create=False) as store:
        rows = store.routes(project=RELEASES[1][0])
    held_out = {question.prompt_id for question in load().held_out}
    assert not held_out & set(prompts["prompt_id"])
    assert all(row.record.decisions[0]["propensity"] < 1 for row in rows)


def test_every_week_is_asked_once_and_the_nights_keep_to_their_money(
    told: tuple[Path, History, str],
) -> None:
    folder, history, _ = told
    with TraceStore(folder / "traces.db", create=False) as store:
        asked = [len(store.routes(project=name)) for some in RELEASES.values() for name in some]
    assert asked == [len(history.seen)] * 4
    nights = json.loads((folder / "learning" / "learned.json").read_text())
    spent = [float(night["bought_usd"]) for night in nights]
    assert len(spent) == 3 and 0 < spent[0] <= BUDGET_USD
    assert spent[1] == spent[2] == 0


def test_the_swap_shows_in_what_users_say_and_nowhere_else(
    told: tuple[Path, History, str],
) -> None:
    folder, _, said = told
    table = OutcomeTable.load(folder / "learning" / "outcomes").outcomes.collect()
    logged = table.filter((pl.col("model") == "large") & pl.col("propensity").is_not_null())
    later = pl.col("source") == RELEASES[3][0]
    assert logged["served_model"].n_unique() == 1
    thumbs = [logged.filter(one)["score"].mean() for one in (~later, later)]
    assert thumbs[0] > thumbs[1] + 0.1  # type: ignore[operator]
    assert ("$ xrouter drift" in said) == (kept_of(folder)["night 2"] is not None)
    if "$ xrouter drift" in said:
        assert isinstance(kept_of(folder)["alarm"], bool)


@pytest.mark.parametrize("stage", ["_week", "_hear", "_night", "_measure", "_close"])
def test_a_run_that_is_stopped_goes_on_where_it_was(
    tmp_path: Path, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    history, settings = load(per_family=2), Settings(folder=tmp_path, budget_usd=0.0001)
    monkeypatch.setattr("integrations.demo.story.xrouter", lambda *a, **o: 0)  # nothing is learned
    real = getattr(Story, stage)

    def stopped(*arguments: Any) -> Any:
        real(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Story, stage, stopped)
        with pytest.raises(KeyboardInterrupt):
            run(history, settings, console())
    said = console()
    run(history, settings, said)
    assert ("goes on with it" in said_to(said)) == (stage != "_close")
    with TraceStore(tmp_path / "traces.db", create=False) as store:
        assert store.count_traces() == 4 * len(history.seen)
    assert (tmp_path / "figures.json").is_file()


def test_a_week_that_is_stopped_in_its_middle_asks_nobody_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    history, settings = load(per_family=4), Settings(folder=tmp_path, budget_usd=0.0001)
    monkeypatch.setattr("integrations.demo.story.xrouter", lambda *a, **o: 0)
    served: list[str] = []
    real = app.serve

    def serve(pool: Any, policy: Any, asked: Sequence[Any], **options: Any) -> list[app.Served]:
        if options.get("traces") is None:
            return real(pool, policy, asked, **options)
        first = not served
        part = asked[: len(asked) // 2] if first else asked
        served.extend(one.id for one in part)
        found = real(pool, policy, part, **options)
        if first:
            raise KeyboardInterrupt
        return found

    monkeypatch.setattr(app, "serve", serve)
    with pytest.raises(KeyboardInterrupt):
        run(history, settings, console())
    run(history, settings, console())
    assert len(served) == len(set(served)) == 4 * len(history.seen)


def test_a_finished_run_is_followed_by_a_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("integrations.demo.story.xrouter", lambda *a, **o: 0)
    history, settings = load(per_family=2), Settings(folder=tmp_path, budget_usd=0.0001)
    said: list[str] = []
    for _ in range(2):
        heard = console()
        run(history, settings, heard)
        said.append(said_to(heard))
    assert not any("goes on with it" in text for text in said)
    with TraceStore(tmp_path / "traces.db", create=False) as store:
        assert store.count_traces() == 4 * len(history.seen)
