"""The family head: what it learns, how it travels, and how it mixes with the language model."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from langchain_core.messages import HumanMessage
from safetensors.numpy import save_file
from sklearn.linear_model import LogisticRegression

from tests.support.grids import make_grid
from tests.support.heads import labelled_head
from xrouter_lg import ModelCard, RouteRequest
from xrouter_lg.checkpoints.family_head import BUCKETS, FamilyHead, bucket_counts
from xrouter_lg.checkpoints.manifest import Manifest
from xrouter_lg.checkpoints.parts import BaseIdentity, CardStats, LanguageModel
from xrouter_lg.fitting.family_head import fit_family_head, head_of, head_stats
from xrouter_lg.policies.utility import Predictor, load_head, trust
from xrouter_lg.value.evidence import Evidence
from xrouter_lg.value.features import Features
from xrouter_lg.value.grouping import one_partition

CARDS = ("cheap", "dear")
RNG = np.random.default_rng(0)
SUMS = [f"what is the sum of {a} and {b} please" for a, b in RNG.integers(10, 99, (80, 2))]
POEMS = [
    f"write a poem about the {a} {b} at night"
    for a in ("red", "blue", "green", "old", "tall", "small", "kind", "grey")
    for b in ("house", "river", "tree", "horse", "ship", "road", "bird", "stone", "hill", "sea")
]
PROMPTS = SUMS + POEMS
FAMILIES = ["sums"] * len(SUMS) + ["poems"] * len(POEMS)
SCORE = np.array([[0.1, 0.9]] * len(SUMS) + [[0.8, 0.85]] * len(POEMS))
COST = np.array([[1.0, 4.0]] * len(SUMS) + [[3.0, 12.0]] * len(POEMS)) * 1e-4
LOG_ODDS = np.log(SCORE.mean(0) / (1 - SCORE.mean(0)))


@pytest.fixture(scope="module")
def head() -> FamilyHead:
    fitted = labelled_head(PROMPTS, FAMILIES, SCORE, COST, CARDS)
    assert fitted is not None
    return fitted


def manifest(head: FamilyHead, share: float = 0.5) -> Manifest:
    return Manifest(
        kind="slots",
        language_model=LanguageModel(BaseIdentity("base", "0", "0", 1, 1), "merged"),
        cards=tuple(
            CardStats(name, name, float(LOG_ODDS[m]), 0.0, 0.0, float(COST[:, m].mean()))
            for m, name in enumerate(CARDS)
        ),
        c_ref_usd=float(COST[:, 1].mean()),
        best_fixed="dear",
        family_head=head_stats(head, Features.of(PROMPTS), share=share),
    )


def test_it_tells_new_prompts_of_known_kinds_apart(head: FamilyHead) -> None:
    assert head.read("what is the sum of 1234 and 4321 please").family == "sums"
    assert head.read("please write a poem about the winter sea").family == "poems"


def test_it_expects_what_training_saw_in_that_family(head: FamilyHead) -> None:
    reading = head.read("what is the sum of 17 and 25 please")
    assert reading.quality["cheap"] == pytest.approx(0.1, abs=0.08)
    assert reading.quality["dear"] == pytest.approx(0.9, abs=0.05)
    # A sum costs half the mean over both kinds.
    assert reading.cost_ratio["dear"] == pytest.approx(0.5, abs=0.08)


def test_probabilities_are_those_of_the_regression_it_was_fitted_by(head: FamilyHead) -> None:
    """The one-prompt code of serving against scikit-learn's own arithmetic."""
    plane = Features.of(PROMPTS).plane_N_P
    model = LogisticRegression(C=30.0, max_iter=200, tol=1e-3).fit(plane, FAMILIES)
    found = np.array([head.probabilities(prompt)[0] for prompt in PROMPTS])
    # The basis is kept in half precision.
    np.testing.assert_allclose(found, model.predict_proba(plane), atol=2e-3)
    points = np.array([head.point(prompt)[0] for prompt in PROMPTS])
    np.testing.assert_allclose(points, plane, atol=2e-3)


def test_a_foreign_request_is_known_to_be_foreign(head: FamilyHead) -> None:
    stats = head_stats(head, Features.of(PROMPTS), share=0.5)
    usual = [trust(stats, head.read(prompt).known) for prompt in PROMPTS]
    assert np.mean(usual) > 0.95
    assert trust(stats, head.read("quelle heure est il à Bruxelles demain matin").known) == 0.0
    assert head.read("").known == 0.0


def test_far_from_training_both_readings_fall_back_to_the_mean(head: FamilyHead) -> None:
    text = "quelle heure est il à Bruxelles demain matin"
    quality, ratios = Predictor.of(manifest(head), head).expectations(
        {"cheap": 3.0, "dear": -3.0}, text, 10
    )
    assert quality == pytest.approx({"cheap": SCORE[:, 0].mean(), "dear": SCORE[:, 1].mean()})
    assert ratios == {"cheap": 1.0, "dear": 1.0}


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_near_training_the_readings_are_mixed_by_the_share(head: FamilyHead, share: float) -> None:
    text, contrast = SUMS[0], {"cheap": 0.0, "dear": 0.0}
    quality, _ = Predictor.of(manifest(head, share), head).expectations(contrast, text, 10)
    alone = head.read(text).quality
    for m, name in enumerate(CARDS):
        assert quality[name] == pytest.approx(
            (1 - share) * SCORE[:, m].mean() + share * alone[name]
        )


def test_it_travels_with_a_checkpoint_as_safetensors(head: FamilyHead, tmp_path: Path) -> None:
    written = manifest(head)
    assert written.family_head is not None
    save_file(head.arrays, tmp_path / written.family_head.file)
    read = Manifest.from_dict(written.to_dict())
    assert read.family_head == written.family_head
    loaded = load_head(read, tmp_path)
    assert loaded is not None
    assert loaded.read(SUMS[3]) == head.read(SUMS[3])
    assert (tmp_path / written.family_head.file).stat().st_size < 200_000


def test_a_checkpoint_without_a_head_is_read_as_before(head: FamilyHead, tmp_path: Path) -> None:
    plain = dataclasses.replace(manifest(head), family_head=None)
    assert load_head(plain, tmp_path) is None
    assert Manifest.from_dict(plain.to_dict()).family_head is None


def test_utilities_follow_the_kind_of_request(head: FamilyHead) -> None:
    candidates = [
        ModelCard(name=name, model=name, base_url="http://127.0.0.1:1/v1") for name in CARDS
    ]

    def chosen(text: str) -> str:
        request = RouteRequest(messages=[HumanMessage(text)], prompt_tokens=10)
        none = dict.fromkeys(CARDS, 0.0)
        predictor = Predictor.of(manifest(head, 1.0), head)
        found = predictor.utilities(none, request, candidates, 0.2)
        return max(found.utility, key=lambda name: found.utility[name])

    assert chosen(SUMS[0]) == "dear"
    assert chosen(POEMS[0]) == "cheap"


def test_requests_that_nobody_labelled_are_told_apart_by_their_words() -> None:
    found = head_of(make_grid(SCORE, COST, prompts=PROMPTS, models=CARDS), CARDS)
    assert found is not None
    assert len(found.blocks) == len(found.arrays["block_B"]) == 3
    shares = np.array(found.probabilities(SUMS[0])[0])
    for block in found.blocks:  # each partition's shares are a third of the whole
        assert shares[block].sum() == pytest.approx(1 / 3)
        assert found.arrays["share_F"][block].sum() == pytest.approx(1 / 3)
    sums, poems = found.read("what is the sum of 17 and 25 please"), found.read(POEMS[7])
    assert sums.family in found.partition and poems.family in found.partition
    assert sums.family != poems.family
    assert sums.quality["cheap"] == pytest.approx(0.1, abs=0.1)
    assert poems.quality["cheap"] == pytest.approx(0.8, abs=0.1)
    assert poems.cost_ratio["dear"] == pytest.approx(1.5, abs=0.15)


def test_a_draw_of_a_familys_scores_spreads_as_its_covariance_says(head: FamilyHead) -> None:
    root = head.arrays["root_F_M_M"].astype(float)
    assert (np.triu(root, 1) == 0).all() and (np.einsum("fmm->fm", root) > 0).all()
    assert head.arrays["worth_F_M"].tolist() == [[80.0, 80.0], [80.0, 80.0]]
    # Eighty outcomes each: within some hundredths.
    assert 0.005 < np.sqrt((root**2).sum(2)).max() < 0.08


@pytest.mark.parametrize("words", [["one two", "three four", "five six"], ["so"] * 3])
def test_prompts_that_nothing_tells_apart_have_no_head(words: list[str]) -> None:
    """None has a word of another; or all are the same."""
    assert head_of(make_grid(SCORE[:3], COST[:3], prompts=words, models=CARDS), CARDS) is None


def test_lengths_must_agree() -> None:
    table = make_grid(SCORE, COST, prompts=PROMPTS, models=CARDS)
    features = Features.of(PROMPTS)
    grouping = one_partition(features, FAMILIES)
    with pytest.raises(ValueError, match="160 prompts, evidence of 160 and 80 rows of costs"):
        fit_family_head(features, grouping, Evidence.of(table), COST[:80], CARDS)


def test_the_range_of_the_known_share_is_taken_without_the_prompt_itself() -> None:
    low, high = Features.of(PROMPTS).known_range()
    assert 0.0 <= low < high <= 1.0
    # Alone with its words a prompt is foreign, however often it says them.
    assert Features.of(["one two three", "four five six"]).known_range()[1] < 0.01


def test_a_pasted_book_costs_no_more_than_its_ends() -> None:
    counts = bucket_counts("word " * 1_000_000 + "end")
    assert sum(counts.values()) < 20_000
    assert all(0 <= bucket < BUCKETS for bucket in counts)
