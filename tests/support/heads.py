"""Family heads fitted on lists made up in a test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tests.support.grids import make_grid
from xrouter_lg.checkpoints.family_head import FamilyHead
from xrouter_lg.fitting.family_head import fit_family_head
from xrouter_lg.value.evidence import Evidence
from xrouter_lg.value.features import Features
from xrouter_lg.value.grouping import one_partition


def labelled_head(
    prompts: Sequence[str], families: Sequence[str], score: Any, cost: Any, cards: Sequence[str]
) -> FamilyHead | None:
    """A head of a single partition, the given families: what it expects can be told by hand."""
    table = make_grid(score, cost, prompts=prompts, families=families, models=cards)
    features = Features.of(table.prompts)
    grouping = one_partition(features, table.families)
    return fit_family_head(features, grouping, Evidence.of(table), np.asarray(cost), cards)
