"""A card that joins a checkpoint by a probe set."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from langchain_core.messages import HumanMessage
from safetensors.numpy import save_file
from typer.testing import CliRunner

from tests.support.grids import make_grid
from tests.support.heads import labelled_head
from xrouter_lg import ModelCard, RouteRequest
from xrouter_lg.checkpoints.family_head import HEAD_FILE, FamilyHead
from xrouter_lg.checkpoints.folder import verify, write_checkpoint
from xrouter_lg.checkpoints.manifest import Manifest
from xrouter_lg.checkpoints.parts import BaseIdentity, CardStats, LanguageModel
from xrouter_lg.cli import app
from xrouter_lg.errors import ConfigurationError
from xrouter_lg.fitting.family_head import head_of, head_stats
from xrouter_lg.fitting.new_card import add_card, probe_cost, probe_scores
from xrouter_lg.policies.utility import Predictor, load_head
from xrouter_lg.value.features import Features

RNG = np.random.default_rng(0)
SUMS = [f"what is the sum of {a} and {b} please" for a, b in RNG.integers(10, 99, (100, 2))]
RHYMES = [f"find a rhyme for the {a} number {b}" for a, b in RNG.integers(10, 99, (100, 2))]
PROMPTS = SUMS + RHYMES
FAMILIES = ["sums"] * 100 + ["rhymes"] * 100
QUALITY = {"cheap": (0.3, 0.7), "dear": (0.9, 0.9)}
USD = {"cheap": (1e-4, 2e-4), "dear": (1e-3, 2e-3)}


def values(by_card: dict[str, tuple[float, float]]) -> np.ndarray:
    return np.array([[pair[i] for pair in by_card.values()] for i in (0, 1) for _ in range(100)])


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    score, cost = values(QUALITY), values(USD)
    head = labelled_head(PROMPTS, FAMILIES, score, cost, list(QUALITY))
    assert head is not None
    return written(tmp_path / "old", head, score, cost)


def written(folder: Path, head: FamilyHead, score: np.ndarray, cost: np.ndarray) -> Path:
    """A checkpoint of kind ``head``."""
    log_odds = np.log(score.mean(0) / (1 - score.mean(0)))
    cards = tuple(
        CardStats(name, name, float(log_odds[m]), 0.0, 0.0, float(cost[:, m].mean()))
        for m, name in enumerate(QUALITY)
    )
    manifest = Manifest(
        kind="head",
        cards=cards,
        c_ref_usd=1.5e-3,
        best_fixed="dear",
        family_head=head_stats(head, Features.of(PROMPTS), share=1.0),
    )
    write_checkpoint(folder, manifest, lambda target: save_file(head.arrays, target / HEAD_FILE))
    return folder


def probe(sums: float, rhymes: float, usd: float) -> tuple[list[str], np.ndarray, np.ndarray]:
    """25 prompts of each kind on which the newcomer is right with these frequencies."""
    prompts = SUMS[:25] + RHYMES[:25]
    right = [i < 25 * sums for i in range(25)] + [i < 25 * rhymes for i in range(25)]
    return prompts, np.array(right, dtype=float), np.full(50, usd)


def chosen(folder: Path, text: str, cost_weight: float = 0.2) -> str:
    manifest = verify(folder)
    names = [card.name for card in (*manifest.cards, *manifest.added)]
    candidates = [ModelCard(name=n, model=n, base_url="http://127.0.0.1:1/v1") for n in names]
    contrasts = dict.fromkeys((card.name for card in manifest.cards), 0.0)
    found = Predictor.of(manifest, load_head(manifest, folder)).utilities(
        contrasts,
        RouteRequest(messages=[HumanMessage(text)], prompt_tokens=10),
        candidates,
        cost_weight,
    )
    return max(found.utility, key=lambda name: found.utility[name])


def test_a_specialist_gets_its_own_kind_and_no_other(checkpoint: Path, tmp_path: Path) -> None:
    assert chosen(checkpoint, SUMS[50]) == "dear"
    assert chosen(checkpoint, RHYMES[50]) == "cheap"
    add_card(checkpoint, tmp_path / "new", "adder", *probe(1.0, 0.0, 1e-4))
    assert chosen(tmp_path / "new", SUMS[50]) == "adder"
    assert chosen(tmp_path / "new", RHYMES[50]) == "cheap"


def test_a_newcomer_that_is_no_better_and_dearer_is_not_called(
    checkpoint: Path, tmp_path: Path
) -> None:
    add_card(checkpoint, tmp_path / "new", "vain", *probe(0.9, 0.9, 4e-3))
    assert {chosen(tmp_path / "new", text) for text in (SUMS[50], RHYMES[50])} == {"dear", "cheap"}


def test_the_old_cards_are_read_as_before(checkpoint: Path, tmp_path: Path) -> None:
    add_card(checkpoint, tmp_path / "new", "adder", *probe(1.0, 0.0, 1e-4))
    old, new = verify(checkpoint), verify(tmp_path / "new")
    assert new.cards == old.cards
    assert old.version != new.version
    before, after = load_head(old, checkpoint), load_head(new, tmp_path / "new")
    assert before is not None
    assert after is not None
    reading, grown = before.read(SUMS[9]), after.read(SUMS[9])
    assert {name: grown.quality[name] for name in QUALITY} == reading.quality
    assert new.dial == ()


def test_a_newcomer_joins_every_partition(tmp_path: Path) -> None:
    """Of families found from words at three resolutions each probe prompt counts for one."""
    score, cost = values(QUALITY), values(USD)
    head = head_of(make_grid(score, cost, prompts=PROMPTS, models=list(QUALITY)), list(QUALITY))
    assert head is not None and len(head.blocks) == 3
    old = written(tmp_path / "old", head, score, cost)
    add_card(old, tmp_path / "new", "adder", *probe(1.0, 0.0, 1e-4))
    # A fine family has few probe prompts, so a newcomer is believed less than in one of its own.
    assert chosen(tmp_path / "new", SUMS[50], cost_weight=0.4) == "adder"
    assert chosen(tmp_path / "new", RHYMES[50], cost_weight=0.4) == "cheap"
    grown = load_head(verify(tmp_path / "new"), tmp_path / "new")
    assert grown is not None
    arrays, before = grown.arrays, head.arrays
    for block in grown.blocks:
        assert arrays["worth_F_M"][block, 2].sum() == pytest.approx(50, rel=1e-5)
    for name in ("quality_F_M", "mean_F_M", "worth_F_M", "cost_ratio_F_M"):
        assert (arrays[name][:, :2] == before[name]).all()
    assert (arrays["mean_F_M"][:, 2] >= arrays["quality_F_M"][:, 2]).all()
    covariance = arrays["root_F_M_M"] @ arrays["root_F_M_M"].transpose(0, 2, 1)
    of_old = before["root_F_M_M"] @ before["root_F_M_M"].transpose(0, 2, 1)
    assert covariance[:, :2, :2] == pytest.approx(of_old)
    assert (covariance[:, 2, :2] == 0).all(), "a newcomer is known by its own probe"
    # The more probe prompts a family has had, the surer.
    order = np.argsort(arrays["worth_F_M"][:, 2])
    assert covariance[order[-1], 2, 2] < covariance[order[0], 2, 2] < 0.05


def test_what_all_find_hard_is_expected_to_be_hard_for_a_newcomer() -> None:
    """Probed on the easy family alone, it is expected to follow the others on the hard one."""
    known = np.array([[0.9, 0.95], [0.2, 0.3]])
    shares = np.tile([[1.0, 0.0]], (50, 1))
    right = np.array([1.0] * 46 + [0.0] * 4)
    easy, hard = probe_scores(shares, right, known).quality_F
    assert hard < 0.4 < 0.8 < easy


def test_a_small_probe_is_believed_less_than_a_large_one() -> None:
    known = np.array([[0.5, 0.5]])
    small, large = (probe_scores(np.ones((n, 1)), np.ones(n), known) for n in (20, 500))
    assert small.quality_F < large.quality_F
    assert small.error_F > large.error_F > 0.0


def test_costs_follow_the_others_pattern_at_its_own_level() -> None:
    usd = probe_cost(np.tile([[1.0, 0.0]], (50, 1)), np.full(50, 5e-4), np.array([[1e-4], [3e-4]]))
    np.testing.assert_allclose(usd, [5e-4, 15e-4], rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("cheap", lambda p, s, c: (p, s, c), "has a card 'cheap' already"),
        ("x", lambda p, s, c: (p[:5], s[:5], c[:5]), "5 probe prompts of 'x'; at least 20"),
        ("x", lambda p, s, c: (p, s * np.nan, c), "unknown scores"),
        ("x", lambda p, s, c: (p, s, c * 0), "costs nothing"),
    ],
)
def test_a_probe_that_can_not_work_is_refused(
    checkpoint: Path, tmp_path: Path, name: str, change: object, message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        add_card(checkpoint, tmp_path / "new", name, *change(*probe(1.0, 1.0, 1e-4)))  # type: ignore[operator]
    assert not (tmp_path / "new").exists()


def test_a_checkpoint_without_a_head_says_what_to_do(checkpoint: Path, tmp_path: Path) -> None:
    manifest = dataclasses.replace(
        verify(checkpoint),
        kind="slots",
        language_model=LanguageModel(BaseIdentity("base", "0", "0", 1, 1), "merged"),
        family_head=None,
    )
    save = {"w": np.zeros(1, dtype=np.float32)}
    write_checkpoint(tmp_path / "bare", manifest, lambda t: save_file(save, t / "a.safetensors"))
    with pytest.raises(ConfigurationError, match="family_head_share above 0"):
        add_card(tmp_path / "bare", tmp_path / "new", "x", *probe(1.0, 1.0, 1e-4))


def test_the_command_reads_an_outcome_table(checkpoint: Path, tmp_path: Path) -> None:
    prompts, score, cost = probe(1.0, 0.0, 1e-4)
    key = {"source": ["s"] * 50, "task": ["t"] * 50, "prompt_id": [str(i) for i in range(50)]}
    pl.DataFrame({**key, "prompt": prompts}).write_parquet(tmp_path / "prompts.parquet")
    pl.DataFrame({**key, "model": ["Adder"] * 50, "score": score, "cost_usd": cost}).write_parquet(
        tmp_path / "outcomes.parquet"
    )
    options = ["checkpoint", "add-card", str(checkpoint), "--output", str(tmp_path / "new")]
    options += ["--outcomes", str(tmp_path)]
    added = CliRunner().invoke(app, [*options, "--model", "Adder"])
    assert added.exit_code == 0, added.output
    assert "2 trained cards and 1 added" in added.output
    assert chosen(tmp_path / "new", SUMS[50]) == "adder"
    refused = CliRunner().invoke(app, [*options, "--model", "nobody"])
    assert refused.exit_code == 2
    assert "no outcome of ['nobody']; there are Adder" in refused.output
