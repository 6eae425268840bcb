"""A family head says the same after it was written and read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from tests.support.heads import labelled_head
from xrouter_lg.checkpoints.family_head import HEAD_FILE, FamilyHead

KINDS = ("what is the capital of", "add the numbers", "write a poem about", "sort the list")
PROMPTS = [f"{kind} item{n % 7} and item{n % 5}" for n in range(20) for kind in KINDS]
FAMILIES = [f"kind {k}" for _ in range(20) for k in range(len(KINDS))]


def test_a_head_reads_a_request_alike_before_and_after_it_is_stored(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    scores = (rng.random((len(PROMPTS), 3)) < 0.5).astype(float)
    costs = rng.uniform(1e-6, 1e-5, scores.shape)
    head = labelled_head(PROMPTS, FAMILIES, scores, costs, ["a", "b", "c"])
    assert head is not None
    save_file(head.arrays, tmp_path / HEAD_FILE)
    stored = FamilyHead.load(tmp_path / HEAD_FILE, head.families, head.cards)
    for prompt, family in zip(PROMPTS, FAMILIES, strict=True):
        assert stored.read(prompt) == head.read(prompt)
        assert stored.read(prompt).family == family
