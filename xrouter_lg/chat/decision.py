"""``XRouterDecisionModel``: a policy as the classifier of LangChain's ``ModelRouterMiddleware``."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.decisions import (  # langchain-core 1.8.3
    BaseDecisionModel,
    Choice,
    ChoiceAnswer,
    ClassifierResponse,
)
from langchain_core.messages import BaseMessage, HumanMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.runnables.config import ensure_config
from pydantic import PrivateAttr

from xrouter_lg.chat.model import pool_of
from xrouter_lg.errors import PoolError, RequestError
from xrouter_lg.graph.asking import RequestSteps, SoFar
from xrouter_lg.graph.bound import ToolBinding
from xrouter_lg.pool.card import normalise_name
from xrouter_lg.portal import run_sync
from xrouter_lg.routing.router import Router, as_router
from xrouter_lg.tracing.runs.extract import annotate_decision
from xrouter_lg.types import Charge, Decision

PROVIDER = "xrouter"


class XRouterDecisionModel(BaseDecisionModel):
    """Answers LangChain's question "which model?" by a policy of ours.

    ``ModelRouterMiddleware(choices={"small": ..., "large": ...}, classifier=
    XRouterDecisionModel(pool=pool, policy="checkpoints/production"))``. The choices are named like
    the pool's cards; a choice that no card has is an error. The answer's ``probabilities`` are
    those with which the choice was made, so that a trace can be learned from; ``request_id`` is
    the decision's id, and stands with it in the run's metadata.

    ``pool``, ``policy`` and ``options``: as :class:`~xrouter_lg.routing.router.Router` takes them.

    Raises:
        ConfigurationError: on construction, for a bad pool, policy or option.
        RequestError: a question of another kind than ``Choice``, or choices that are no cards.
    """

    model: str = PROVIDER
    _router: Router = PrivateAttr()

    def __init__(self, pool: Any = None, *, policy: Any = None, **options: Any) -> None:
        router = as_router(pool_of(pool), policy=policy, **options)
        super().__init__(model=f"{PROVIDER}:{router.policy.name}")
        self._router = router

    @property
    def _provider(self) -> str:
        return PROVIDER

    def _classify(self, state: Any, questions: dict[str, Any]) -> ClassifierResponse:
        return run_sync(self._aclassify(state, questions))

    async def _aclassify(self, state: Any, questions: dict[str, Any]) -> ClassifierResponse:
        messages = as_messages(state)
        answers: dict[str, Any] = {}
        decisions: dict[str, Decision] = {}
        for name, question in questions.items():
            if not isinstance(question, Choice):
                raise RequestError(
                    f"question {name!r} is a {type(question).__name__}; XRouterDecisionModel "
                    "answers a Choice between cards of its pool"
                )
            decisions[name], answers[name] = await self._choose(name, question, messages)
        request_id = str(uuid.uuid4())
        annotate_decision(ensure_config(), request_id, decisions.values())
        charges = [charge for decision in decisions.values() for charge in decision.charges]
        return ClassifierResponse(
            model=self.model, answers=answers, usage=_usage(charges), request_id=request_id
        )

    async def _choose(
        self, name: str, question: Choice, messages: Sequence[BaseMessage]
    ) -> tuple[Decision, ChoiceAnswer]:
        pool = self._router.pool
        labels: dict[str, str] = {}
        for label in question.criteria:
            try:
                card = normalise_name(label)
            except PoolError:
                card = ""
            if card not in pool:
                raise RequestError(
                    f"question {name!r} offers {label!r}, which is no card of the pool; name the "
                    f"choices like its cards: {', '.join(pool.names)}"
                )
            labels[card] = label
        config = ensure_config()
        own = {"allow": sorted(labels)}
        config["configurable"] = {**(config.get("configurable") or {}), **own}
        steps = RequestSteps(self._router, ToolBinding())
        request = steps.request(messages, config, pool, SoFar(), pool.names)
        decision = await self._router.decide(request, pool)
        chosen = decision.calls[0].card if decision.calls else decision.order[0]
        probabilities = dict.fromkeys(labels.values(), 0.0)
        for card, probability in drawn_from(decision, chosen).items():
            probabilities[labels[card]] = probability
        return decision, ChoiceAnswer(
            type="choice",
            choice=labels[chosen],
            probabilities=probabilities,
            confidence=min(1.0, probabilities[labels[chosen]]),
        )


def drawn_from(decision: Decision, chosen: str) -> Mapping[str, float]:
    """The probability with which each card would have been chosen. A policy that draws for itself
    tells only that of what it drew, unless its scores are what it drew from."""
    if decision.explore is not None:
        return decision.explore
    scores, propensity = decision.scores, decision.propensity
    if propensity is not None and abs(scores.get(chosen, 0.0) - propensity) < 1e-9:
        return {card: score for card, score in scores.items() if score}
    return {chosen: 1.0 if propensity is None else propensity}


def as_messages(state: Any) -> list[BaseMessage]:
    """A decision's state as a conversation: messages as they are, anything else as the user's
    text, JSON where it is no text."""
    if isinstance(state, BaseMessage):
        return [state]
    if isinstance(state, str):
        return [HumanMessage(state)]
    if isinstance(state, Sequence) and state and all(isinstance(m, BaseMessage) for m in state):
        return list(state)
    if isinstance(state, Mapping) and isinstance(state.get("messages"), Sequence):
        return as_messages(state["messages"])
    return [HumanMessage(json.dumps(state, ensure_ascii=False, default=_text))]


def _text(value: Any) -> Any:
    return f"{value.type}: {value.text}" if isinstance(value, BaseMessage) else str(value)


def _usage(charges: Sequence[Charge]) -> UsageMetadata | None:
    counted = [charge.usage for charge in charges if charge.usage is not None]
    if not counted:
        return None
    asked = sum(usage.input_tokens for usage in counted)
    said = sum(usage.output_tokens for usage in counted)
    return UsageMetadata(input_tokens=asked, output_tokens=said, total_tokens=asked + said)
