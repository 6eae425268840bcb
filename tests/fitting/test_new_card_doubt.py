"""What is not known of a card that joined by a probe set, and so how often it is tried."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from langchain_core.messages import HumanMessage

from tests.support.flat_heads import POEMS, SUMS, flat_head, write_head
from xrouter_lg import ModelCard, RouteRequest
from xrouter_lg.arrays import Floats
from xrouter_lg.checkpoints.folder import verify
from xrouter_lg.fitting.new_card import add_card
from xrouter_lg.policies.head import HeadPolicy
from xrouter_lg.policies.utility import load_head

MEAN, USD = (0.5, 0.6), (1e-4, 1e-3)
PROBE = SUMS[:25] + POEMS[:25]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    write_head(tmp_path / "old", flat_head(("a", "b"), MEAN, np.diag([1e-4, 1e-4])), MEAN, USD)
    return tmp_path / "old"


def join(checkpoint: Path, folder: Path, right: int) -> Path:
    """With this many of 50 probe prompts right."""
    add_card(checkpoint, folder, "new", PROBE, scores(right), np.full(50, 1e-4))
    return folder


def scores(right: int) -> Floats:
    """Spread evenly over the probe."""
    return np.floor(np.arange(1, 51) * right / 50) - np.floor(np.arange(50) * right / 50)


def test_a_newcomer_comes_with_an_error_of_its_own(checkpoint: Path, tmp_path: Path) -> None:
    folder = join(checkpoint, tmp_path / "new", 30)
    before, after = (load_head(verify(f), f) for f in (checkpoint, folder))
    assert before is not None and after is not None
    root, families = after.arrays["root_F_M_M"], len(after.families)
    np.testing.assert_array_equal(root[:, :2, :2], before.arrays["root_F_M_M"])
    assert not root[:, 2, :2].any() and not root[:, :2, 2].any()
    shares = np.array([after.probabilities(text)[0] for text in PROBE])
    # sqrt(p (1 - p) / (prompts of the family + the eight that the fitted line is worth)).
    mean = after.arrays["mean_F_M"][:, 2]
    expected = np.sqrt(mean * (1.0 - mean) / (shares.sum(0) + 8))
    np.testing.assert_allclose(root[:, 2, 2], expected, rtol=1e-5)
    # The mean is what was seen; what it is counted on is half a standard error less.
    gap = after.arrays["mean_F_M"][:, 2] - after.arrays["quality_F_M"][:, 2]
    assert gap == pytest.approx([0.5 * np.sqrt(0.24 / 50)] * families, rel=1e-3)


async def test_an_unsure_newcomer_is_tried_and_a_bad_one_is_not(
    checkpoint: Path, tmp_path: Path
) -> None:
    cards = [ModelCard(name=n, model=n, base_url="http://127.0.0.1:1/v1") for n in "ab"]
    cards.append(ModelCard(name="new", model="new", base_url="http://127.0.0.1:1/v1"))
    chance = {}
    for right in (24, 5):
        policy = HeadPolicy(join(checkpoint, tmp_path / f"new{right}", right))
        request = RouteRequest([HumanMessage(SUMS[30])], prompt_tokens=10)
        proposal = await policy.propose(request, cards)
        assert max(proposal.probabilities, key=proposal.probabilities.__getitem__) == "b"
        assert proposal.explore is not None
        chance[right] = proposal.explore["new"]
    assert 0.02 < chance[24] < 0.5
    assert chance[5] < 0.01
