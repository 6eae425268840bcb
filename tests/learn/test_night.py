"""One night of learning: real graphs leave traces in a real store, `xrouter learn` reads them."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from typer.testing import CliRunner

from tests.support import apps
from tests.support.logs import World
from xrouter_lg import ModelPool, Recorder, XRouterNode
from xrouter_lg.checkpoints.aliases import read_alias
from xrouter_lg.checkpoints.folder import read_manifest
from xrouter_lg.cli import app
from xrouter_lg.errors import ConfigurationError
from xrouter_lg.judge.one_sided import conclude_from_log
from xrouter_lg.learn import run as night
from xrouter_lg.learn.report import write_report
from xrouter_lg.learn.run import learn
from xrouter_lg.learn.settings import LearnSettings
from xrouter_lg.learn.state import STATE_FILE, read_nights

REQUESTS = 700
runner = CliRunner()
CARDS = ("small", "coder", "large")


def pool() -> ModelPool:
    prices = {
        "small": {"input": "1", "output": "2"},
        "coder": {"input": "2", "output": "4"},
        "large": {"input": "10", "output": "30"},
    }
    cards = [apps.scripted(name, price=prices[name]) for name in CARDS]
    return ModelPool(cards, default="large")


def record(
    path: Path, world: World, *, exploration: float = 0.3, seed: int = 1, thumbs: float = 1.0
) -> None:
    """Each request through a real graph, and a user's word on a share of the answers."""
    rng = random.Random(seed)
    with Recorder(path) as recorder:
        node = XRouterNode(pool(), policy="fixed:large", traces=recorder, exploration=exploration)
        node.router._random.seed(seed)
        graph = apps.app(node)
        said = []
        for row, text in enumerate(world.prompts):
            state = graph.invoke({"messages": [HumanMessage(text)]}, apps.options())
            found = apps.record(state)
            right = world.score_N_M[row, CARDS.index(found["route"])]
            said.append((found["trace_id"], float(right)))
        recorder.flush(30)
        for trace, score in said:
            if rng.random() < thumbs:
                recorder.store.record_feedback(trace, "liked", score)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two kinds of requests, most of which a cheaper card answers as well; some exploration."""
    path = tmp_path_factory.mktemp("app") / "traces.db"
    record(path, World.of(REQUESTS, seed=3))
    return path


def settings(store: Path, tmp_path: Path, **options: Any) -> LearnSettings:
    return LearnSettings(
        **{
            "folder": tmp_path / "learning",
            "store": str(store),
            "checkpoints": tmp_path / "checkpoints",
            "feedback": ("liked",),
            "cost_weight": 0.5,
            **options,
        }
    )


def test_a_night_ends_in_production_and_the_next_one_finds_nothing_new(
    store: Path, tmp_path: Path
) -> None:
    how = settings(store, tmp_path)
    first = learn(how)
    assert first.done == "promoted", first.reason
    alias = read_alias(how.checkpoints, "production")
    assert alias is not None
    assert first.manifest is not None
    assert alias.version == first.manifest.version
    node = XRouterNode(pool(), policy=str(how.checkpoints / "production"), cost_weight=0.5)
    state = apps.app(node).invoke(
        {"messages": [HumanMessage("please tell music story cousin friend garden dinner")]}
    )
    assert apps.record(state)["route"] == "small"
    again = learn(how)
    assert again.done == "nothing new"
    assert read_alias(how.checkpoints, "production") == alias
    assert len(read_nights(how.folder)) == 1


def test_families_keep_their_names_from_night_to_night(store: Path, tmp_path: Path) -> None:
    how = settings(store, tmp_path)
    first = learn(how)
    assert first.learned is not None
    # More requests of the same kinds came in.
    later = tmp_path / "later.db"
    later.write_bytes(store.read_bytes())
    record(later, World.of(200, seed=8), seed=8)
    second = learn(settings(later, tmp_path))
    assert second.learned is not None
    before = set(first.learned.grouping.partitions[0].names)
    after = set(second.learned.grouping.partitions[0].names)
    assert len(before & after) >= 0.8 * len(before)


def test_a_log_that_never_explored_changes_nothing_that_serves(tmp_path: Path) -> None:
    store = tmp_path / "traces.db"
    world = World.of(300, seed=5)
    record(store, world, exploration=0.0)
    found = learn(settings(store, tmp_path))
    assert found.done == "nothing to learn"
    assert "exploration=0.05" in found.reason
    assert read_alias(tmp_path / "checkpoints", "production") is None


def test_without_a_word_from_users_it_says_what_to_name(store: Path, tmp_path: Path) -> None:
    found = learn(settings(store, tmp_path, feedback=()))
    assert found.done == "nothing to learn"
    assert "--feedback" in found.reason


@pytest.mark.parametrize("step", ["_build", "_conclude", "_write", "_move", "_ended"])
def test_a_night_that_is_killed_at_any_step_is_finished_by_the_next(
    store: Path, tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    how = settings(store, tmp_path)

    def killed(real: Callable[..., Any], *, after: bool) -> Callable[..., Any]:
        def dies(*args: Any, **options: Any) -> Any:
            if after:
                real(*args, **options)
            raise KeyboardInterrupt

        return dies

    for after in (False, True):
        with monkeypatch.context() as patched:
            patched.setattr(night, step, killed(getattr(night, step), after=after))
            with pytest.raises(KeyboardInterrupt):
                learn(how)
    found = learn(how)
    assert found.done in ("promoted", "nothing new")
    alias = read_alias(how.checkpoints, "production")
    assert alias is not None
    folders = [path for path in how.checkpoints.iterdir() if path.is_dir()]
    assert [read_manifest(path).version for path in folders].count(alias.version) == 1


def test_a_dry_run_writes_and_moves_nothing(store: Path, tmp_path: Path) -> None:
    how = settings(store, tmp_path)
    found = learn(how, dry_run=True)
    assert found.done == "planned"
    assert f"{REQUESTS} traces" in found.reason
    assert not how.folder.exists()
    assert not how.checkpoints.exists()


def test_a_card_that_left_the_pool_is_no_gain_and_no_conclusion(
    store: Path, tmp_path: Path
) -> None:
    """With it the same log promotes: nearly all that it gains is the small card's."""
    file = tmp_path / "pool.yaml"
    file.write_text(
        "default: large\nmodels:\n"
        + "".join(
            f"  - name: {name}\n    model: openai:{name}\n    base_url: http://127.0.0.1:9/v1\n"
            for name in ("coder", "large")
        )
    )
    found = learn(settings(store, tmp_path, pool=file))
    assert found.concluded is not None
    assert found.manifest is not None
    assert [card.name for card in found.manifest.cards] == ["coder", "large"]
    assert {cell.card for cell in found.concluded.overlap} == {"coder", "large"}
    (said,) = found.concluded.left_out
    assert "scored outcomes of small, which can't be chosen, are left out" in said
    write_report(found, tmp_path / "report.html")
    assert "of small, which can" in (tmp_path / "report.html").read_text()


def test_a_budget_without_a_pool_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="Name the pool file"):
        settings(tmp_path / "traces.db", tmp_path, budget_usd="2")


def test_a_damaged_state_file_says_what_to_do(store: Path, tmp_path: Path) -> None:
    how = settings(store, tmp_path)
    how.folder.mkdir()
    (how.folder / STATE_FILE).write_text("[{]")
    with pytest.raises(ConfigurationError, match="move it away"):
        learn(how)


def test_the_command_reports_on_one_page_and_ends_with_a_code_for_a_scheduler(
    store: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "learning"
    arguments = ["learn", "--store", str(store), "--folder", str(folder), "--feedback", "liked"]
    arguments += ["--checkpoints", str(tmp_path / "checkpoints"), "--cost-weight", "0.5"]
    done = runner.invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "promoted" in done.output
    page = (folder / "report.html").read_text()
    assert "<svg" in page
    assert "Overlap" in page
    assert json.loads((folder / "report.json").read_text())["done"] == "promoted"
    again = runner.invoke(app, [*arguments, "--json"])
    assert again.exit_code == 0
    assert json.loads(again.stdout)["done"] == "nothing new"


def test_a_checkpoint_that_is_not_promoted_ends_with_3(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = conclude_from_log

    def against(*args: Any, **options: Any) -> Any:
        return dataclasses.replace(real(*args, **options), use="as it is", reason="held")

    monkeypatch.setattr(night, "conclude_from_log", against)
    options = ["--store", str(store), "--feedback", "liked", "--folder", str(tmp_path / "l")]
    options += ["--checkpoints", str(tmp_path / "checkpoints"), "--cost-weight", "0.5"]
    done = runner.invoke(app, ["learn", *options])
    assert done.exit_code == 3, done.output
    assert "kept" in done.output
    assert read_alias(tmp_path / "checkpoints", "production") is None
    (tmp_path / "l" / STATE_FILE).unlink()
    tried = runner.invoke(app, ["learn", *options, "--canary"])
    assert tried.exit_code == 0, tried.output
    assert read_alias(tmp_path / "checkpoints", "candidate") is not None
    assert read_alias(tmp_path / "checkpoints", "production") is None
