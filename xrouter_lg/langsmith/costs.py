"""LangSmith's costs against our own: tokens × the card's price, or the published one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from typing import Any

from xrouter_lg.calls.money import cost_of
from xrouter_lg.pool.pool import ModelPool
from xrouter_lg.pool.pricing import Price, published_price
from xrouter_lg.said import asked_model, metadata_of, reply_of, run_usage, usd_of
from xrouter_lg.types import TokenUsage

TOLERANCE = Decimal("0.01")
"""Share of the larger figure up to which two costs count as the same."""

_LISTED = 1000
"""Disagreements that are kept one by one; all are counted."""

_PROVIDERS = {"azure_openai": "azure", "google_genai": "google", "amazon_bedrock": "aws"}
"""LangChain's names of providers where genai-prices has another."""


@dataclass(frozen=True)
class Disagreement:
    """A model call whose cost LangSmith gives otherwise than the price list does."""

    run_id: str
    trace_id: str
    model: str
    input_tokens: int
    output_tokens: int
    ours_usd: Decimal
    langsmith_usd: Decimal
    price_source: str

    def to_dict(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "ours_usd": f"{self.ours_usd:f}",
            "langsmith_usd": f"{self.langsmith_usd:f}",
        }


@dataclass
class CostAudit:
    """Adds up model calls by whether the two costs agree. A cost that is unknown on one side is no
    disagreement."""

    pool: ModelPool | None = None
    agree: int = 0
    disagree: int = 0
    only_ours: int = 0
    only_langsmith: int = 0
    neither: int = 0
    ours_usd: Decimal = Decimal(0)
    """Of the calls that both sides price."""
    langsmith_usd: Decimal = Decimal(0)
    disagreements: list[Disagreement] = field(default_factory=list)
    by_model: dict[str, int] = field(default_factory=dict)
    """Disagreements by model."""

    def add(self, run: Mapping[str, Any]) -> None:
        """Count a run; only finished model calls matter."""
        if run.get("run_type") != "llm" or not run.get("end_time"):
            return
        model, usage = asked_model(run) or "", run_usage(run)
        ours, source = self._cost(run, model, usage)
        theirs = usd_of(run.get("total_cost"))
        if ours is None or theirs is None:
            self.only_ours += ours is not None
            self.only_langsmith += theirs is not None
            self.neither += ours is None and theirs is None
            return
        self.ours_usd += ours
        self.langsmith_usd += theirs
        if abs(ours - theirs) <= TOLERANCE * max(ours, theirs):
            self.agree += 1
            return
        self.disagree += 1
        self.by_model[model] = self.by_model.get(model, 0) + 1
        if len(self.disagreements) < _LISTED:
            tokens = usage or TokenUsage(0, 0)
            self.disagreements.append(
                Disagreement(
                    run_id=str(run["id"]),
                    trace_id=str(run.get("trace_id")),
                    model=model,
                    input_tokens=tokens.input_tokens,
                    output_tokens=tokens.output_tokens,
                    ours_usd=ours,
                    langsmith_usd=theirs,
                    price_source=source,
                )
            )

    def to_dict(self) -> dict[str, Any]:
        names = ("agree", "disagree", "only_ours", "only_langsmith", "neither")
        return {
            **{name: getattr(self, name) for name in names},
            "ours_usd": f"{self.ours_usd:f}",
            "langsmith_usd": f"{self.langsmith_usd:f}",
            "by_model": self.by_model,
            "disagreements": [found.to_dict() for found in self.disagreements],
        }

    def _cost(
        self, run: Mapping[str, Any], model: str, usage: TokenUsage | None
    ) -> tuple[Decimal | None, str]:
        cost, source = cost_of(reply_of(run), usage, self._price(run, model))
        return cost, source or ""

    def _price(self, run: Mapping[str, Any], model: str) -> Price | None:
        metadata = metadata_of(run)
        if self.pool is not None:
            named = metadata.get("xrouter_card")
            if isinstance(named, str) and named in self.pool:
                return self.pool[named].effective_price
            for card in self.pool:
                if model in (card.model_name, card.published_name, card.name):
                    return card.effective_price
        provider = metadata.get("ls_provider")
        known = _PROVIDERS.get(str(provider), provider)
        return published_price(str(known) if known else None, model) if model else None
