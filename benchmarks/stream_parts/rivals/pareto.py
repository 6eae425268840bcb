"""ParetoBandit (arXiv 2604.00136; PyPI ``paretobandit``), through its public API.

Its settings are those that the package documents for a start without priors,
``BEST_K3_TABULA_RASA_HPARAMS``: alpha 0.05, forgetting 0.997, ``priors="none"``. A card that joins
is registered, a new price is told by ``update_model_pricing``, thumbs arrive by
``process_feedback`` as rewards of 0 and 1. Its rule is certain given the past, so its propensity is
1, and it explores where its bonus picks another card than estimate and price alone.

It has no cost weight in money. It takes off a static ``cost_penalty`` times the logarithm of a
price, or paces a budget. Each of three ways to say what the stream asks for is a rival:

- ``exact``: a price is told as that number whose logarithm, as ParetoBandit normalises it, times
  ``cost_penalty`` is the cost in our utility: cost_weight × usual cost / c_ref. As thumbs shrink a
  difference in score by 1 − 2 × error, so is the price. It then maximises what it is measured by,
  to the last digit.
- ``budget``: a ``BudgetPacer`` with its defaults keeps the mean cost at what the policy spends that
  is told everything, told the true cost of each answer; no static penalty.
- ``dial``: its own logarithmic penalty at the weight 0.2 that it takes where the world moves
  (``DEFAULT_NONSTAT_COST_PENALTY``).

Its features are its own where ``Setting.own_features`` has them, else those of the others.

It forgets by the request, and its default remembers about 333 of them. Where only some answers are
rated that is fewer rewards than it was tuned with: with ``memory`` it can be given as many.

For the last two a request is taken to be 1,000 tokens, so that a price per token is the usual cost
of a request.
"""

from __future__ import annotations

import math
from typing import Any, Literal

from benchmarks.stream_parts.learner import Billed, Choice, Request, Setting, Thumb
from benchmarks.stream_parts.rivals.features import needed
from xrouter_lg.arrays import Floats

_HEADROOM = 100.0
"""How much dearer than the dearest card at the start a card may become, in ``exact``."""
_TOKENS = 500
"""In, and as many out."""


class ParetoBandit:
    def __init__(
        self,
        setting: Setting,
        *,
        money: Literal["exact", "budget", "dial"] = "exact",
        memory: float = 1.0,
    ) -> None:
        """``memory``: times as many requests are remembered as by default."""
        package = needed("pareto_bandit", "paretobandit")
        config = needed("pareto_bandit.config", "paretobandit")
        services = needed("pareto_bandit.feature_service", "paretobandit")
        self._normalised = needed("pareto_bandit.costs", "paretobandit").log_normalize_cost
        self._money, self._features = money, setting.own_features or setting.features
        self._limits = package.RouterConfig()
        self._dearest_usd = _HEADROOM * max(setting.usual_usd.values()) or 1.0
        self._weight = {
            "exact": (1.0 - 2.0 * setting.thumb_error) * setting.price(self._dearest_usd),
            "budget": 0.0,
            "dial": config.DEFAULT_NONSTAT_COST_PENALTY,
        }[money]
        pacing = needed("pareto_bandit.budget_pacer", "paretobandit")
        self._pacer: Any = pacing.BudgetPacer(setting.budget_usd) if money == "budget" else None
        best = config.BEST_K3_TABULA_RASA_HPARAMS
        self._router: Any = package.BanditRouter.create(
            {name: self._rates(usd) for name, usd in setting.usual_usd.items()},
            priors="none",
            alpha=best["alpha"],
            forgetting_factor=best["forgetting_factor"] ** (1.0 / memory),
            feature_service=services.FeatureService.for_precomputed(self._features.dimension),
            cost_penalty=self._weight,
            budget_pacer=self._pacer,
            bandit_seed=setting.seed,
        )
        self._usual = dict(setting.usual_usd)
        self._logs: dict[str, Any] = {}

    def choose(self, request: Request) -> Choice:
        for name, usd in request.usual_usd.items():
            if name not in self._usual:
                self._router.register_model(name, **self._rates(usd))
            elif usd != self._usual[name]:
                rates = self._rates(usd)
                # Else a card that was registered later keeps its old price under a ceiling.
                rates["cost_per_1m_tokens"] = rates["input_cost_per_m"]
                self._router.update_model_pricing(name, **rates)
        self._usual = dict(request.usual_usd)
        x = self._features(request.text)
        greedy = self._greedy(x)
        card, log = self._router.route(x, input_tokens=_TOKENS, output_tokens=_TOKENS)
        self._logs[request.id] = log
        return Choice(card, 1.0, explored=card not in greedy)

    def answered(self, billed: Billed) -> None:
        self._logs[billed.id].cost_usd = billed.cost_usd

    def rated(self, thumb: Thumb) -> None:
        log = self._logs.pop(thumb.id)
        self._router.process_feedback(log.request_id, reward=float(thumb.up))

    def retrain(self) -> None:
        """It learned with every thumb."""

    def _rates(self, usual_usd: float) -> dict[str, float]:
        """USD per million tokens, in and out."""
        rate = usual_usd * 1e6 / (2 * _TOKENS)
        if self._money == "exact":
            floor, ceiling = self._limits.market_cost_floor, self._limits.market_cost_ceiling
            rate = 1e3 * floor * math.exp(usual_usd / self._dearest_usd * math.log(ceiling / floor))
        return {"input_cost_per_m": rate, "output_cost_per_m": rate}

    def _greedy(self, x: Floats) -> set[str]:
        """The cards that are best by estimate and price, without a bonus."""
        rate = {
            name: self._rates(usd)["input_cost_per_m"] / 1e3 for name, usd in self._usual.items()
        }
        weight, most = self._weight, math.inf
        if self._pacer is not None:
            weight += self._pacer.lambda_t
            most = self._pacer.get_cost_ceiling_per_1k(max(rate.values())) or math.inf
        floor, ceiling = self._limits.market_cost_floor, self._limits.market_cost_ceiling
        value = {
            name: self._router.bandit.get_expected_reward(name, x)
            - weight * self._normalised(usd, floor, ceiling)
            for name, usd in rate.items()
            if usd <= most
        }
        best = max(value.values(), default=0.0)
        return {name for name, one in value.items() if one >= best - 1e-9}
