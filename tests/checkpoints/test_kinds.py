"""A checkpoint without a language model: fitted, judged, promoted, served, taken back."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from langchain_core.messages import HumanMessage
from typer.testing import CliRunner

from xrouter_lg import ModelCard, ModelPool, XRouterNode
from xrouter_lg.checkpoints.folder import read_manifest, verify
from xrouter_lg.checkpoints.manifest import CheckpointError, Manifest
from xrouter_lg.cli import app
from xrouter_lg.errors import ConfigurationError
from xrouter_lg.fitting.new_card import add_card
from xrouter_lg.policies import following
from xrouter_lg.policies.cascade.policy import CascadePolicy
from xrouter_lg.policies.checkpoints import load_policy, remote_policy
from xrouter_lg.policies.head import HeadPolicy
from xrouter_lg.policies.resolve import resolve_policy
from xrouter_lg.testing import FakeModel, FakeOpenAIServer

CARDS = ("cheap", "twin", "dear")
USD = {"cheap": 1e-4, "twin": 1e-4, "dear": 4e-3}
SUM, GREETING = "what is 21 plus 22 in total", "say hello to my friend 7 today"
KINDS = ("head", "cascade")
CHAT = [f"{a}{b}" for a in ("well", "then", "maybe", "today", "please") for b in "bcdfghjklm"]


def write_outcomes(folder: Path, count: int = 1200) -> Path:
    """Sums on which the cheap ones are right two times of three, at random, and agree only then;
    greetings that anyone can answer. The dear one is always right."""
    folder.mkdir(parents=True, exist_ok=True)
    prompts, outcomes, luck = [], [], random.Random(1)
    for n in range(count):
        lucky = luck.random() < 2 / 3
        kind = "sums" if n % 2 else "greetings"
        text = f"what is {n} plus {n + 1} in total" if n % 2 else f"say hello to my friend {n}"
        # Neighbours by words are of either kind; what tells the kinds apart is not.
        text = f"{text} {' '.join(luck.sample(CHAT, 14))}"
        key = {"source": "app", "task": kind, "prompt_id": str(n)}
        prompts.append({**key, "prompt": text, "category": kind})
        truth = str(2 * n + 1) if n % 2 else "hello"
        for i, card in enumerate(CARDS):
            right = kind == "greetings" or card == "dear" or lucky
            answer = truth if right else f"{1000 * (i + 1) + n}"
            row = {**key, "model": card, "score": float(right), "cost_usd": USD[card]}
            # Answers of one kind are of many lengths: no length is odd.
            said = f"{'So be it. ' * (n // 2 * (i + 1) % 7)}The answer is {answer}."
            outcomes.append({**row, "response": said, "output_tokens": 9})
    pl.DataFrame(prompts).write_parquet(folder / "prompts.parquet")
    pl.DataFrame(outcomes).write_parquet(folder / "outcomes.parquet")
    return folder


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_outcomes(tmp_path_factory.mktemp("outcomes"))


def run(*arguments: Any, exits: int = 0) -> str:
    """What a command prints."""
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == exits, (done.output, done.exception)
    return done.output


def train(outcomes: Path, folder: Path, kind: str, *more: Any) -> Manifest:
    share = ("--train-share", 0.5)
    run("train", outcomes, f"--{kind}", "--output", folder, *share, *more, "--json")
    return verify(folder)


def judge(outcomes: Path, checkpoint: Path, report: Path, *more: Any) -> dict[str, Any]:
    tables = [f"--{name}={outcomes / name}.parquet" for name in ("outcomes", "prompts")]
    options = ("--cost-weight", 0.25, "--no-baselines", "--draws", 40, "--report", report, "--json")
    printed = run("judge", "--checkpoint", checkpoint, *tables, *options, *more)
    found: dict[str, Any] = json.loads(printed)
    return found


@pytest.fixture
def server() -> Iterator[FakeOpenAIServer]:
    models = [FakeModel(name=card, reply="The answer is 43.") for card in CARDS]
    with FakeOpenAIServer(models) as running:
        yield running


def pool(server: FakeOpenAIServer) -> ModelPool:
    price = {"cheap": 1, "twin": 1, "dear": 40}
    return ModelPool(
        [
            ModelCard(
                name=card,
                model=card,
                base_url=server.base_url,
                price={"input": price[card], "output": price[card]},
            )
            for card in CARDS
        ],
        default="dear",
    )


def ask(node: XRouterNode, text: str) -> dict[str, Any]:
    message = node.invoke({"messages": [HumanMessage(text)]})["messages"][-1]
    record: dict[str, Any] = message.response_metadata["xrouter"]
    return record


@pytest.mark.parametrize("kind", KINDS)
def test_from_outcomes_to_production_and_back(
    outcomes: Path, server: FakeOpenAIServer, tmp_path: Path, kind: str
) -> None:
    """Each step by its command, as a user has it."""
    root = tmp_path / "checkpoints"
    first = train(outcomes, root / "first", kind)
    second = train(outcomes, root / "second", kind, "--split-seed", 1)
    assert (first.kind, second.kind) == (kind, kind)
    assert first.version != second.version
    report = judge(outcomes, root / "first", tmp_path / "first.html")
    assert report["checkpoint"]["kind"] == kind
    assert report["promote"] is True, report["pools"][0]["verdict"]["reasons"]
    run("promote", root / "second", "--checkpoints", root, exits=3)  # nobody judged it
    run("promote", root / "first", "--checkpoints", root, "--report", tmp_path / "first.json")
    node = XRouterNode(pool(server), policy=str(root / "production"), max_turns=3, cost_weight=0.1)
    record = ask(node, GREETING)
    assert (record["policy"], record["policy_version"]) == ("checkpoint", first.version)
    assert record["route"] in ("cheap", "twin")
    assert record["decisions"][0]["policy_error"] is None
    run("promote", root / "second", "--checkpoints", root, "--force", "a try")
    again = XRouterNode(pool(server), policy=str(root / "production"), max_turns=3)
    assert ask(again, SUM)["policy_version"] == second.version
    run("rollback", "--checkpoints", root)
    last = XRouterNode(pool(server), policy=str(root / "production"), max_turns=3)
    assert ask(last, SUM)["policy_version"] == first.version


@pytest.mark.parametrize("kind", KINDS)
def test_what_training_measured_is_what_the_judge_finds(
    outcomes: Path, tmp_path: Path, kind: str
) -> None:
    manifest = train(outcomes, tmp_path / "c", kind)
    report = judge(outcomes, tmp_path / "c", tmp_path / "r.html")
    assert report["prompts"] == manifest.data["test_prompts"]
    assert report["router_usd_per_request"] == 0.0
    found = report["gain_over_zero_router"]["value"]
    assert found == pytest.approx(manifest.metrics["gain_over_zero_router"]["value"], abs=1e-9)


def test_a_head_ships_nothing_but_itself(outcomes: Path, tmp_path: Path) -> None:
    manifest = train(outcomes, tmp_path / "c", "head")
    assert set(manifest.files) == {"family_head.safetensors"}
    assert {path.name for path in (tmp_path / "c").iterdir()} == {*manifest.files, "manifest.json"}
    assert manifest.language_model is None
    assert manifest.metrics["router_usd_per_request"] == 0.0


def test_a_served_head_proposes_what_the_judge_was_told_it_expects(
    outcomes: Path, tmp_path: Path, server: FakeOpenAIServer
) -> None:
    train(outcomes, tmp_path / "c", "head")
    record = ask(XRouterNode(pool(server), policy=str(tmp_path / "c"), cost_weight=0.1), SUM)
    assert set(record["scores"]) == set(CARDS)
    assert record["charges"] and all(charge["kind"] == "worker" for charge in record["charges"])


def test_an_alias_moves_from_a_head_to_a_cascade_under_a_running_node(
    outcomes: Path, tmp_path: Path, server: FakeOpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "_LOOK_EVERY_S", 0.0)
    root = tmp_path / "checkpoints"
    train(outcomes, root / "head", "head")
    cascade = train(outcomes, root / "cascade", "cascade")
    run("promote", root / "head", "--checkpoints", root, "--force", "first")
    policy = resolve_policy(str(root / "production"), pool(server))
    assert isinstance(policy, following.FollowingPolicy)
    assert (policy.orchestrates, type(policy.current)) == (False, HeadPolicy)
    node = XRouterNode(pool(server), policy=policy, max_turns=3, cost_weight=0.1)
    run("promote", root / "cascade", "--checkpoints", root, "--force", "it won")
    ask(node, SUM)
    assert policy._loading is not None
    policy._loading.join()
    record = ask(node, SUM)
    assert record["policy_version"] == cascade.version
    assert (policy.orchestrates, type(policy.current)) == (True, CascadePolicy)
    # Two cheap ones that agree: nobody asks the dear one.
    assert sorted(charge["card"] for charge in record["charges"]) == ["cheap", "twin"]


def test_a_cascade_goes_beside_a_head_as_canary_and_as_shadow(
    outcomes: Path, tmp_path: Path, server: FakeOpenAIServer
) -> None:
    head = train(outcomes, tmp_path / "head", "head")
    cascade = train(outcomes, tmp_path / "cascade", "cascade")
    both = f"{tmp_path / 'head'},{tmp_path / 'cascade'}"
    canary = XRouterNode(pool(server), policy=f"canary:{both}=1.0", max_turns=3, cost_weight=0.1)
    record = ask(canary, SUM)
    assert record["arm"]["arm"] == "candidate"
    assert record["policy_version"] == cascade.version
    assert len(record["charges"]) == 2
    shadow = resolve_policy(f"shadow:{both}", pool(server))
    shadow.wait_s = 30.0  # type: ignore[attr-defined]  # until it is there
    record = ask(XRouterNode(pool(server), policy=shadow, max_turns=3), SUM)
    assert record["policy_version"] == head.version
    shadowed = record["decisions"][0]["shadow"]
    assert (shadowed["policy_version"], shadowed["status"]) == (cascade.version, "proposed")


def test_a_cascade_in_a_node_of_one_turn_says_that_it_was_judged_with_more(
    outcomes: Path, tmp_path: Path, server: FakeOpenAIServer, caplog: pytest.LogCaptureFixture
) -> None:
    train(outcomes, tmp_path / "c", "cascade")
    node = XRouterNode(pool(server), policy=str(tmp_path / "c"))
    assert len(ask(node, SUM)["charges"]) == 1
    ask(node, SUM)
    told = [text for text in caplog.messages if "was measured with max_turns=3" in text]
    assert len(told) == 1, "said once"
    assert "it routes by kind of task. Give the node max_turns=3" in told[0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_without_a_language_model_needs_no_server(
    outcomes: Path, tmp_path: Path, kind: str
) -> None:
    train(outcomes, tmp_path / "c", kind)
    with pytest.raises(CheckpointError, match=f"of kind '{kind}'.*Serve it in process"):
        remote_policy("vllm", "http://127.0.0.1:1/v1", tmp_path / "c")


def test_a_policy_of_another_kind_names_both(outcomes: Path, tmp_path: Path) -> None:
    train(outcomes, tmp_path / "c", "head")
    with pytest.raises(CheckpointError, match="is of kind 'head', and 'cascade' is served here"):
        CascadePolicy(tmp_path / "c")
    assert isinstance(load_policy(tmp_path / "c", base="/none", dtype="float32"), HeadPolicy)


def test_a_cascade_takes_no_further_card(outcomes: Path, tmp_path: Path) -> None:
    train(outcomes, tmp_path / "c", "cascade")
    probe = pl.Series([1.0] * 30).to_numpy()
    with pytest.raises(ConfigurationError, match="kind 'cascade', which no probe set extends"):
        add_card(tmp_path / "c", tmp_path / "new", "fresh", ["a question"] * 30, probe, probe)


def test_train_says_what_it_needs_and_where_language_models_are_trained(outcomes: Path) -> None:
    assert "python training/train.py" in " ".join(run("train", "--help").split())
    assert "--output" in run("train", outcomes, exits=2)


def test_train_replaces_no_folder_that_is_no_checkpoint(outcomes: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    said = run("train", outcomes, "--head", "--output", tmp_path, exits=2)
    assert "holds something that is no checkpoint" in said
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--train-share", 1.0), "must lie in (0, 1)"),
        (("--min-prompts", 5000), "at least 5000 are needed"),
        (("--sources", "elsewhere"), "can't be used"),
        (("--rename", "cheap"), "no TABLE=CARD"),
    ],
)
def test_a_table_that_can_not_teach_is_refused(
    outcomes: Path, tmp_path: Path, options: tuple[Any, ...], said: str
) -> None:
    printed = run("train", outcomes, "--head", "--output", tmp_path / "c", *options, exits=2)
    assert said in printed
    assert not (tmp_path / "c").exists()


def test_a_cascade_needs_recorded_answers(outcomes: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    pl.read_parquet(outcomes / "outcomes.parquet").drop("response").write_parquet(
        bare / "outcomes.parquet"
    )
    pl.read_parquet(outcomes / "prompts.parquet").write_parquet(bare / "prompts.parquet")
    said = run("train", bare, "--cascade", "--output", tmp_path / "c", exits=2)
    assert "no column 'response'" in said


_BLOCKED = '''
import sys
from pathlib import Path

class Without:
    """Finds what a finder finds, but for these."""

    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers", "tokenizers", "peft", "trl"):
            return None
        return self.finder.find_spec(name, path, target)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
from langchain_core.messages import HumanMessage
from tests.checkpoints.test_kinds import judge, pool, train, ask, CARDS
from xrouter_lg import XRouterNode
from xrouter_lg.testing import FakeModel, FakeOpenAIServer

outcomes, work = Path(sys.argv[1]), Path(sys.argv[2])
train(outcomes, work / "c", sys.argv[3])
assert judge(outcomes, work / "c", work / "r.html")["promote"] is True
with FakeOpenAIServer([FakeModel(name=card, reply="43") for card in CARDS]) as server:
    record = ask(XRouterNode(pool(server), policy=str(work / "c"), max_turns=3), "say hello")
assert record["decisions"][0]["policy_error"] is None, record
print(record["policy"])
'''


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_fitted_judged_and_served_without_torch(
    outcomes: Path, tmp_path: Path, kind: str
) -> None:
    code = textwrap.dedent(_BLOCKED)
    done = subprocess.run(
        [sys.executable, "-c", code, str(outcomes), str(tmp_path), kind],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("checkpoint")


def test_what_the_command_writes_reads_back(outcomes: Path, tmp_path: Path) -> None:
    printed = json.loads(run("train", outcomes, "--head", "--output", tmp_path / "c", "--json"))
    manifest = read_manifest(tmp_path / "c")
    assert printed["version"] == manifest.version
    assert printed["cards"] == [card.name for card in manifest.cards]
    assert printed["gain_over_zero_router"] == manifest.metrics["gain_over_zero_router"]
