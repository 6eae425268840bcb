"""LangSmith's costs are checked against tokens × price."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from tests.langsmith.conftest import add_trace, days_ago, pulled, run_id
from tests.support.langsmith_server import LangSmithServer
from xrouter_lg import ModelPool
from xrouter_lg.langsmith.connection import LangSmith
from xrouter_lg.langsmith.costs import CostAudit
from xrouter_lg.tracing.store.trace_store import TraceStore

POOL = ModelPool.from_dict(
    {
        "models": [
            {
                "name": "small",
                "model": "openai:small",
                "base_url": "http://127.0.0.1:1/v1",
                "price": {"input": "0.02", "cached_input": "0.01", "output": "0.06"},
            }
        ]
    }
)


def call(cost: Any, usage: dict[str, Any] | None = None, **metadata: Any) -> dict[str, Any]:
    found = {"input_tokens": 1000, "output_tokens": 100, "total_tokens": 1100}
    said = {"usage_metadata": usage or found, "ls_model_name": "small", **metadata}
    return {
        "id": run_id(1),
        "trace_id": run_id(1),
        "run_type": "llm",
        "end_time": "2026-11-01T00:00:00",
        "total_cost": cost,
        "extra": {"metadata": said},
    }


def audited(*runs: dict[str, Any], pool: ModelPool | None = POOL) -> CostAudit:
    audit = CostAudit(pool)
    for run in runs:
        audit.add(run)
    return audit


def test_one_per_cent_is_the_line() -> None:
    right = Decimal("0.000026")  # 1000 × 0.02 and 100 × 0.06 USD per million
    audit = audited(*(call(right * Decimal(f)) for f in ("1", "1.009", "1.02", "0.97")))
    assert (audit.agree, audit.disagree, audit.by_model) == (2, 2, {"small": 2})
    assert audit.ours_usd == 4 * right


def test_cached_tokens_cost_what_the_card_says() -> None:
    usage = {
        "input_tokens": 1000,
        "output_tokens": 0,
        "total_tokens": 1000,
        "input_token_details": {"cache_read": 500},
    }
    assert audited(call("0.000015", usage)).agree == 1
    # LangSmith's own price map knew nothing of the cache.
    assert audited(call("0.00002", usage)).disagree == 1


def test_what_is_unknown_is_no_disagreement() -> None:
    audit = audited(
        call(None),
        call("0.1", ls_model_name="somebody-elses"),
        call(None, ls_model_name="somebody-elses"),
    )
    assert (audit.only_ours, audit.only_langsmith, audit.neither) == (1, 1, 1)
    assert (audit.agree, audit.disagree) == (0, 0)


def test_a_published_price_is_used_where_there_is_no_card() -> None:
    audit = audited(call("99", ls_model_name="gpt-4o-mini", ls_provider="openai"), pool=None)
    [found] = audit.disagreements
    assert found.price_source.startswith("genai-prices") and 0 < found.ours_usd < 1


def test_what_the_provider_itself_billed_wins() -> None:
    run = call("0.5")
    message = {"kwargs": {"response_metadata": {"token_usage": {"cost": 0.5}}}}
    run["outputs"] = {"generations": [[{"message": message}]]}
    assert audited(run).agree == 1


def test_only_finished_model_calls_count() -> None:
    audit = audited({**call("9"), "run_type": "chain"}, {**call("9"), "end_time": None})
    assert audit.to_dict()["disagree"] == audit.neither == 0


def test_a_pull_lists_what_disagrees(
    server: LangSmithServer, langsmith: LangSmith, store: TraceStore
) -> None:
    server.prices = {"small": ("0.02", "0.06")}
    for number in range(4):
        add_trace(server, number, days_ago(1))
    assert pulled(langsmith, store, pool=POOL).costs.agree == 4
    server.prices = {"small": ("0.2", "0.6")}
    told = pulled(langsmith, store, pool=POOL, full=True).to_dict()["costs"]
    assert (told["agree"], told["disagree"], told["by_model"]) == (0, 4, {"small": 4})
    first = told["disagreements"][0]
    assert (first["ours_usd"], first["langsmith_usd"]) == ("0.00000052", "0.0000052")
    assert (first["input_tokens"], first["output_tokens"]) == (20, 2)
