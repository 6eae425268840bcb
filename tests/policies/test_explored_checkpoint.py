"""Beside a language model, a head's doubt is what a checkpoint is explored by."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.support import tiny_checkpoint
from tests.support.flat_heads import SUMS, flat_head, manifest_of
from tests.support.tiny_checkpoint import NAMES, pool, request
from tests.support.tiny_model import write_tiny_base
from xrouter_lg import Router
from xrouter_lg.policies.slots.policy import CheckpointPolicy

pytestmark = pytest.mark.train

MEAN, USD = (0.6, 0.62, 0.64), (1e-5, 1e-4, 1e-3)


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_base(tmp_path_factory.mktemp("base"))


async def test_a_slots_checkpoint_with_a_head_says_what_to_explore_by(
    base_folder: Path, tmp_path: Path
) -> None:
    head = flat_head(NAMES, MEAN, np.diag([0.3, 0.3, 0.3]))
    whole = manifest_of(head, MEAN, USD).family_head
    assert whole is not None
    stats = replace(whole, share=0.5)
    folder = tiny_checkpoint.write(tmp_path / "c", base_folder, head=head, family_head=stats)
    policy = CheckpointPolicy(folder, base=base_folder)
    asked, cards = request(SUMS[0]), pool()
    proposal = await policy.propose(asked, cards.cards)
    assert proposal.explore is not None and proposal.cost_usd is not None
    assert sum(proposal.explore.values()) == pytest.approx(1.0)
    assert min(proposal.explore.values()) > 0.1
    assert (await policy.propose(asked, cards.cards)).explore == proposal.explore
    decision = await Router(cards, policy, exploration=0.5).decide(asked, cards)
    favourite = decision.order[0]
    assert decision.explore is not None
    for name, chance in proposal.explore.items():
        drawn = 0.5 * (0.9 * chance + 0.1 / 3) + 0.5 * (name == favourite)
        assert decision.explore[name] == pytest.approx(drawn)


async def test_a_slots_checkpoint_without_a_head_says_nothing(
    base_folder: Path, tmp_path: Path
) -> None:
    folder = tiny_checkpoint.write(tmp_path / "c", base_folder)
    proposal = await CheckpointPolicy(folder, base=base_folder).propose(
        request(SUMS[0]), pool().cards
    )
    assert proposal.explore is None
