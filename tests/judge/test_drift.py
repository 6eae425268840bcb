"""Drift alarms when something moved, and keeps quiet when nothing did."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.messages import HumanMessage
from safetensors.numpy import save_file
from typer.testing import CliRunner

from tests.support import apps
from tests.support.heads import labelled_head
from tests.support.logs import World
from tests.tracing.routed import a_record
from xrouter_lg import ModelPool, Proposal, Recorder, XRouterNode
from xrouter_lg.checkpoints.family_head import HEAD_FILE, FamilyHead
from xrouter_lg.checkpoints.folder import write_checkpoint
from xrouter_lg.checkpoints.manifest import Manifest
from xrouter_lg.checkpoints.parts import BaseIdentity, CardStats, LanguageModel
from xrouter_lg.cli import app
from xrouter_lg.fitting.family_head import head_stats
from xrouter_lg.fitting.from_log import learned_from, write_from_log
from xrouter_lg.fitting.read_lesson import LessonSettings
from xrouter_lg.fitting.trained_on import histogram, reference_of
from xrouter_lg.judge.traffic.checks import Check
from xrouter_lg.judge.traffic.drift import DriftReport, check_prompts, find_drift
from xrouter_lg.judge.traffic.logged import LiveRequest
from xrouter_lg.policies.utility import load_head
from xrouter_lg.value.features import Features

CARDS = ("small", "large")
PRICE = {"small": {"input": "1", "output": "2"}, "large": {"input": "10", "output": "30"}}
runner = CliRunner()

_NOUNS = ("apples", "pears", "books", "coins", "trains", "tickets", "tables", "lamps", "plates")
_TOPICS = ("history", "music", "rivers", "planets", "painters", "kings", "bridges", "islands")


def prompt(rng: random.Random) -> tuple[str, str]:
    """A prompt of one of two kinds, with many words in common and some of its own."""
    if rng.random() < 0.5:
        some, more, what = rng.randint(2, 99), rng.randint(2, 99), rng.choice(_NOUNS)
        tail = " Show each step of the calculation." * rng.randint(0, 3)
        text = f"Ann has {some} {what} and buys {more} more. How many {what} does she have?{tail}"
        return text, "sums"
    one, other = rng.sample(_TOPICS, 2)
    tail = " Give three examples with a short reason for each." * rng.randint(0, 3)
    return f"Tell me briefly what {one} and {other} have in common, and why.{tail}", "talk"


def prompts(count: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    return [prompt(rng)[0] for _ in range(count)]


FOREIGN = [
    f"def solve_{n}(matrix): return numpy.linalg.eigvals(matrix @ rotation_{n}).real  # refactor"
    for n in range(200)
]


def trained(*, price: bool = True, reference: bool = True) -> tuple[Manifest, FamilyHead]:
    rng = random.Random(0)
    pairs = [prompt(rng) for _ in range(400)]
    texts, families = [text for text, _ in pairs], [family for _, family in pairs]
    score = np.array([[0.4 if f == "sums" else 0.8, 0.9] for f in families])
    head = labelled_head(texts, families, score, np.full((400, 2), 1e-3), CARDS)
    assert head is not None
    manifest = Manifest(
        kind="slots",
        language_model=LanguageModel(BaseIdentity("tiny", "0" * 64, "1" * 64, 3, 32), "merged"),
        cards=tuple(
            CardStats(n, f"{n} one", 1.0, 0.0, 4.0, 1e-3, PRICE[n] if price else None)
            for n in CARDS
        ),
        c_ref_usd=1e-3,
        best_fixed="large",
        family_head=head_stats(head, Features.of(texts), share=0.5),
        reference=reference_of(Features.of(texts), head) if reference else {},
    )
    return manifest, head


@pytest.fixture(scope="module")
def world() -> tuple[Manifest, FamilyHead]:
    return trained()


def charge(card: str, factor: float = 1.0, **changes: Any) -> dict[str, Any]:
    usage = {"input_tokens": 1000, "output_tokens": 100}
    price = PRICE[card]
    usd = factor * (1000 * float(price["input"]) + 100 * float(price["output"])) / 1e6
    return {
        "kind": "worker",
        "card": card,
        "model": f"{card}-1",
        "attempt": 1,
        "usage": usage,
        "cost_usd": repr(usd),
        "price_source": "card",
        "latency_s": 0.1,
        "served_model": None,
        "error": None,
        **changes,
    }


def traffic(
    texts: Sequence[str],
    *,
    factor: float = 1.0,
    cards: tuple[str, ...] = CARDS,
    version: str = "1",
    gap: float | None = None,
    seed: int = 5,
    **changes: Any,
) -> list[LiveRequest]:
    rng = random.Random(seed)
    found = []
    for number, text in enumerate(texts):
        card = cards[number % len(cards)]
        decision = {"calls": [{"card": card}], "quality": {card: 0.7}}
        record = a_record(
            route=card,
            candidates=list(cards),
            charges=[charge(card, factor, **changes)],
            decisions=[decision],
            policy_version=version,
        )
        score = None if gap is None else float(rng.random() < 0.7 + gap)
        found.append(LiveRequest(f"t{number}", record, text, str(number), score))
    return found


def alarms(report: DriftReport) -> set[str]:
    return {check.name for check in report.checks if check.status == "alarm"}


def named(report: DriftReport, name: str) -> Check:
    return next(check for check in report.checks if check.name == name)


def test_the_same_kind_of_traffic_raises_no_alarm(world: tuple[Manifest, FamilyHead]) -> None:
    manifest, head = world
    requests = traffic(prompts(200, 9), gap=0.0, version=manifest.version)
    report = find_drift(manifest, head, requests)
    assert not report.alarm
    assert {check.name for check in report.checks if check.status != "ok"} == {"models"}
    assert report.decided == report.threads == 200


def test_false_alarms_are_rare(world: tuple[Manifest, FamilyHead]) -> None:
    manifest, head = world
    raised = 0
    for seed in range(100, 150):
        requests = traffic(prompts(120, seed), gap=0.0, version=manifest.version, seed=seed)
        raised += find_drift(manifest, head, requests).alarm
    assert raised <= 1  # of 50


@pytest.mark.parametrize("factor", [10.0, 0.1])
def test_a_price_of_ten_times_alarms(world: tuple[Manifest, FamilyHead], factor: float) -> None:
    manifest, head = world
    report = find_drift(manifest, head, traffic(prompts(100, 9), factor=factor))
    assert alarms(report) == {"price of small", "price of large"}
    check = named(report, "price of small")
    assert check.value == pytest.approx(factor)
    assert "judge again" in check.advice


def test_a_price_is_known_from_the_pool_before_anybody_pays_it(
    world: tuple[Manifest, FamilyHead],
) -> None:
    manifest, head = world
    dear = {"input": "10", "output": "20"}
    pool = ModelPool([apps.scripted("small", price=dear), apps.scripted("large")])
    report = find_drift(manifest, head, traffic(prompts(100, 9)), pool=pool)
    assert alarms(report) == {"price of small"}


def test_without_a_recorded_price_the_cost_of_calls_tells() -> None:
    manifest, head = trained(price=False)
    usual = replace(
        manifest,
        cards=tuple(replace(c, cost_usd=u) for c, u in zip(manifest.cards, USD, strict=True)),
    )
    assert not alarms(find_drift(usual, head, traffic(prompts(120, 9))))
    report = find_drift(usual, head, traffic(prompts(120, 9), factor=10))
    assert alarms(report) == {"cost of a call of small", "cost of a call of large"}
    few = find_drift(usual, head, traffic(prompts(20, 9), factor=10))
    assert named(few, "cost of a call of small").status == "unknown"


USD = (0.0012, 0.013)
"""What a thousand tokens in and a hundred out cost, by the prices above."""


def test_a_card_that_left_and_one_that_came_alarm(world: tuple[Manifest, FamilyHead]) -> None:
    manifest, head = world
    gone = find_drift(manifest, head, traffic(prompts(100, 9), cards=("small",)))
    assert "candidates removed" in alarms(gone)
    assert "large" in named(gone, "candidates removed").said
    pool = ModelPool([apps.scripted(name) for name in ("small", "large", "medium")])
    new = find_drift(manifest, head, traffic(prompts(100, 9)), pool=pool)
    assert "candidates added" in alarms(new)
    assert "medium" in named(new, "candidates added").said
    assert "new_card" in named(new, "candidates added").advice


def test_a_card_that_some_requests_may_not_use_has_not_left(
    world: tuple[Manifest, FamilyHead],
) -> None:
    manifest, head = world
    requests = traffic(prompts(60, 9), cards=("small",))
    denied = replace(requests[0].record, removed={"large": "in the request's deny list"})
    requests[0] = replace(requests[0], record=denied)
    assert "candidates removed" not in alarms(find_drift(manifest, head, requests))


def test_another_model_behind_a_card_alarms(world: tuple[Manifest, FamilyHead]) -> None:
    manifest, head = world
    before = [request.record for request in traffic(prompts(50, 8))]
    moved = traffic(prompts(100, 9), served_model="small-2")
    report = find_drift(manifest, head, moved, earlier=before)
    assert alarms(report) == {"model of small", "model of large"}
    assert "small-2" in named(report, "model of small").said
    assert named(find_drift(manifest, head, moved), "models").status == "unknown"


def test_foreign_traffic_alarms(world: tuple[Manifest, FamilyHead]) -> None:
    manifest, head = world
    report = find_drift(manifest, head, traffic(FOREIGN))
    assert {"foreign prompts", "words of prompts", "length of prompts"} <= alarms(report)
    assert "train again" in named(report, "foreign prompts").advice


def test_one_kind_of_task_alone_alarms(world: tuple[Manifest, FamilyHead]) -> None:
    manifest, head = world
    sums = [text for text in prompts(400, 9) if text.startswith("Ann")]
    report = find_drift(manifest, head, traffic(sums))
    assert "kinds of task" in alarms(report)
    assert "foreign prompts" not in alarms(report)


def test_kinds_found_coarsely_and_finely_are_compared_by_the_first_partition(
    tmp_path: Path,
) -> None:
    how = LessonSettings()
    learned = learned_from(World.of(600, seed=1).grid(), how)
    assert len(learned.grouping.partitions) > 1
    manifest = write_from_log(tmp_path / "c", learned, how)
    head = load_head(manifest, tmp_path / "c")
    assert head is not None
    later = World.of(300, seed=2)
    said = {c.name: c.status for c in _checked(manifest, later.prompts, head)}
    assert said["kinds of task"] == "ok"
    code = [text for text, kind in zip(later.prompts, later.kind_N, strict=True) if kind]
    assert {c.name: c.status for c in _checked(manifest, code, head)}["kinds of task"] == "alarm"


def test_the_training_requests_coming_again_are_no_strangers(tmp_path: Path) -> None:
    how = LessonSettings()
    world = World.of(300, seed=1)
    manifest = write_from_log(tmp_path / "c", learned_from(world.grid(), how), how)
    said = _checked(manifest, world.prompts, load_head(manifest, tmp_path / "c"))
    assert {c.status for c in said} == {"ok"}


def _checked(manifest: Manifest, texts: Sequence[str], head: FamilyHead | None) -> list[Check]:
    return list(check_prompts(manifest, texts, [str(n) for n in range(len(texts))], head))


def test_one_chatty_thread_is_one_voice(world: tuple[Manifest, FamilyHead]) -> None:
    manifest, head = world
    texts = [*prompts(100, 9), *FOREIGN]
    threads = [*(f"t{n}" for n in range(100)), *["one"] * len(FOREIGN)]
    assert all(c.status == "ok" for c in check_prompts(manifest, texts, threads, head))
    apart = [str(n) for n in range(len(texts))]
    assert any(c.status == "alarm" for c in check_prompts(manifest, texts, apart, head))


@pytest.mark.parametrize(("gap", "word"), [(-0.35, "worse"), (0.25, "better")])
def test_cards_that_succeed_otherwise_than_expected_alarm(
    world: tuple[Manifest, FamilyHead], gap: float, word: str
) -> None:
    manifest, head = world
    requests = traffic(prompts(200, 9), gap=gap, version=manifest.version)
    report = find_drift(manifest, head, requests)
    assert alarms(report) == {"success of small", "success of large"}
    assert word in named(report, "success of small").advice


def test_a_card_that_was_silently_swapped_alarms_whoever_decided(
    world: tuple[Manifest, FamilyHead],
) -> None:
    manifest, head = world
    before = traffic(prompts(200, 9), gap=0.1, version="another")
    after = traffic(prompts(120, 10), gap=-0.3, version="another", seed=6)
    for number, request in enumerate(after):
        after[number] = dataclasses.replace(request, thread=f"later {number}")
    small = [r for r in after if r.record.route == "small"]
    as_before = traffic(prompts(120, 11), gap=0.1, version="another", seed=7)
    large = [
        dataclasses.replace(r, thread=f"large {n}")
        for n, r in enumerate(as_before)
        if r.record.route == "large"
    ]
    mixed = [request for pair in zip(small, large, strict=True) for request in pair]
    report = find_drift(manifest, head, [*before, *mixed])
    assert alarms(report) == {"change of small"}
    assert "xrouter learn" in named(report, "change of small").advice
    assert named(report, "change of large").status == "ok"


def test_another_checkpoints_decisions_say_nothing_of_this_ones_expectations(
    world: tuple[Manifest, FamilyHead],
) -> None:
    manifest, head = world
    requests = traffic(prompts(200, 9), gap=-0.4, version="another")
    report = find_drift(manifest, head, requests)
    assert report.decided == 0
    assert named(report, "outcomes").status == "unknown"


def test_an_old_checkpoint_loads_and_says_what_it_cannot_tell() -> None:
    manifest, head = trained(reference=False)
    data = manifest.to_dict()
    del data["reference"]
    old = Manifest.from_dict(data)
    report = find_drift(old, head, traffic(prompts(100, 9)))
    for name in ("length of prompts", "words of prompts", "kinds of task"):
        assert named(report, name).status == "unknown"
        assert "the next one" in named(report, name).said
    assert named(report, "foreign prompts").status == "ok"  # the head itself can tell
    assert "foreign prompts" in alarms(find_drift(old, head, traffic(FOREIGN)))
    assert not report.alarm


def test_without_a_family_head_lengths_are_compared_all_the_same() -> None:
    manifest, _ = trained()
    bare = replace(
        manifest, family_head=None, reference=reference_of(Features.of(prompts(400, 1)), None)
    )
    report = find_drift(bare, None, traffic(prompts(100, 9)))
    assert named(report, "length of prompts").status == "ok"
    assert named(report, "words of prompts").status == "unknown"


def test_too_few_requests_conclude_nothing_of_prompts(world: tuple[Manifest, FamilyHead]) -> None:
    manifest, head = world
    report = find_drift(manifest, head, traffic(FOREIGN[:20]))
    assert named(report, "prompts").status == "unknown"


def test_a_histogram_of_one_value_has_all_in_one_bin() -> None:
    assert histogram([1.0] * 50) == {"edges": [1.0], "shares": [1.0, 0.0]}


def test_a_reference_lets_nobody_read_a_prompt_back(world: tuple[Manifest, FamilyHead]) -> None:
    text = json.dumps(world[0].reference)
    assert len(text) < 1500
    assert not any(noun in text for noun in _NOUNS)


# --- the command, on a real store


class Checkpointed:
    """Proposes with this version and expects 0.7 of every card."""

    name = "checkpoint"

    def __init__(self, version: str) -> None:
        self.version = version

    async def propose(self, request: Any, candidates: Any) -> Proposal:
        names = [card.name for card in candidates]
        return Proposal({n: 1.0 / len(names) for n in names}, quality=dict.fromkeys(names, 0.7))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    manifest, head = trained()
    folder = tmp_path_factory.mktemp("run") / "checkpoint"

    def write(target: Path) -> None:
        target.joinpath("model.safetensors").write_bytes(b"none")
        save_file(head.arrays, target / HEAD_FILE)

    write_checkpoint(folder, manifest, write)
    return folder


def record(path: Path, texts: Sequence[str], factor: int = 1) -> None:
    cards = [
        apps.scripted(n, price={k: str(int(v) * factor) for k, v in PRICE[n].items()})
        for n in CARDS
    ]
    with Recorder(path) as recorder:
        node = XRouterNode(ModelPool(cards), policy=Checkpointed("v"), traces=recorder)
        graph = apps.app(node)
        for number, text in enumerate(texts):
            graph.invoke({"messages": [HumanMessage(text)]}, apps.options(thread_id=f"t{number}"))


def test_the_command_is_quiet_on_quiet_traffic(checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "t.db"
    record(path, prompts(55, 9))
    args = ["drift", "--store", str(path), "--checkpoint", str(checkpoint)]
    found = runner.invoke(app, args)
    assert found.exit_code == 0, found.output
    data = json.loads(runner.invoke(app, [*args, "--json"]).output)
    assert data["alarm"] is False
    assert {c["name"]: c["status"] for c in data["checks"]}["kinds of task"] == "ok"


def test_the_command_ends_with_3_on_an_alarm_and_says_what_to_do(
    checkpoint: Path, tmp_path: Path
) -> None:
    path = tmp_path / "t.db"
    record(path, prompts(12, 9), factor=10)
    args = ["drift", "--store", str(path), "--checkpoint", str(checkpoint)]
    found = runner.invoke(app, args)
    assert found.exit_code == 3, found.output
    assert "price of small" in found.output and "judge again" in found.output


def test_a_wrong_file_is_told_in_one_line(checkpoint: Path, tmp_path: Path) -> None:
    gone = ["drift", "--store", str(tmp_path / "none.db"), "--checkpoint", str(checkpoint)]
    assert runner.invoke(app, gone).exit_code == 2
    path = tmp_path / "t.db"
    record(path, ["hi"])
    nothing = ["drift", "--store", str(path), "--checkpoint", str(tmp_path / "nothing")]
    found = runner.invoke(app, nothing)
    assert found.exit_code == 2 and "no checkpoint" in found.output
