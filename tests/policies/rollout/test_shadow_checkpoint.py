"""A trained checkpoint as a shadow: its model runs beside the request, and costs nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.apps import app, ask, record
from xrouter_lg import XRouterNode

pytestmark = pytest.mark.train
tiny = pytest.importorskip("tests.support.tiny_checkpoint")


async def test_a_checkpoint_proposes_beside_a_fixed_card(tmp_path: Path) -> None:
    from xrouter_lg.policies.rollout.shadow import ShadowPolicy

    base = tiny.write_base(tmp_path / "base")
    folder = tiny.write(tmp_path / "checkpoint", base)
    shadow = f"checkpoint:{folder}?base={base}"
    node = XRouterNode(tiny.pool(), policy=ShadowPolicy("fixed:small", shadow, wait_s=60))
    policy = node.router.policy
    try:
        policy.warm_up()  # type: ignore[attr-defined]
        found = record(await app(node).ainvoke(ask()))
        proposed = found["decisions"][0]["shadow"]
        assert (found["route"], proposed["status"]) == ("small", "proposed")
        assert proposed["policy_version"] == policy.shadow.version  # type: ignore[attr-defined]
        assert set(proposed["quality"]) == set(tiny.NAMES)
        assert proposed["cost_usd"] == found["shadow_cost_usd"] == "0"
    finally:
        policy.close()  # type: ignore[attr-defined]
