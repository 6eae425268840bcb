"""Any chat model with tools as a policy: works on day one, with no training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, ClassVar

from langchain_core.language_models import BaseChatModel
from langchain_core.runnables.config import ensure_config, merge_configs

from xrouter_lg.calls.attempt import CallTerms, Workers
from xrouter_lg.calls.money import worst_case
from xrouter_lg.calls.tokens import prompt_size
from xrouter_lg.calls.worker.parameters import Bound
from xrouter_lg.errors import PolicyConfigError, PolicyError, PolicyTimeoutError
from xrouter_lg.policies.base import BasePolicy, one_hot
from xrouter_lg.pool.card import ModelCard
from xrouter_lg.pool.pricing import Price
from xrouter_lg.prompts import tools as codec
from xrouter_lg.types import PlannedCall, Proposal, RouteRequest

ROUTER_TAG = "xrouter"
"""Tag of the router's own model runs in a trace: what a trainer fetches."""

_QUIET = {"tags": [ROUTER_TAG, "nostream"], "run_name": "xrouter_policy"}


class PromptedPolicy(BasePolicy):
    """A chat model that routes by native tool calling, in the form of the xRouter paper.

    ``model`` is a chat model, a card, or an ``init_chat_model`` string. With ``max_turns`` above
    one it may call several models, look at their answers, select one, call again or write the
    answer itself; ``direct_answers=False`` makes it always call.

    Its own tokens are charged. ``price`` (USD per million tokens) is needed under a budget when
    the model is none of genai-prices' list. ``timeout_s`` is for one proposal;
    ``max_output_tokens`` limits what it may write.

    Raises:
        PolicyConfigError: the model is no chat model and names none.
    """

    name = "prompted"
    orchestrates: ClassVar[bool] = True

    def __init__(
        self,
        model: BaseChatModel | ModelCard | str,
        *,
        price: Price | Mapping[str, Any] | None = None,
        direct_answers: bool = True,
        timeout_s: float = 30.0,
        max_output_tokens: int = 1024,
    ) -> None:
        if isinstance(model, ModelCard):
            self.card = model
        elif isinstance(model, BaseChatModel | str):
            self.card = ModelCard(
                name="policy",
                model=model,
                price=price,
                # The model's own deadline ends first, so that the attempt is on the bill when
                # the router gives up.
                timeout_s=timeout_s * 0.95,
                max_retries=1,
            )
        else:
            raise PolicyConfigError(
                f"a prompted policy can't use {model!r}; give a chat model, a ModelCard or an "
                "init_chat_model string such as 'openai:gpt-5-nano'"
            )
        self.direct_answers = direct_answers
        self.timeout_s = timeout_s  # type: ignore[misc]  # an instance's own, where set
        self.max_output_tokens = max_output_tokens
        self.prompt_hash = codec.prompt_hash()
        self.version = f"{self.card.model_name}@{self.prompt_hash[:8]}"
        self._workers = Workers()

    async def propose(self, request: RouteRequest, candidates: Sequence[ModelCard]) -> Proposal:
        messages, tools = codec.render(request, candidates, direct=self.direct_answers)
        # Without a direct answer the model has to call something; "any" is LangChain's word.
        must_call = not self.direct_answers and not request.answers
        result = await self._workers.call(
            self.card,
            PlannedCall(
                id=f"router{request.turn}",
                card=self.card.name,
                max_tokens=self.max_output_tokens,
                allowance_usd=request.remaining_usd,
            ),
            messages,
            merge_configs(ensure_config(), _QUIET),  # type: ignore[arg-type]
            CallTerms(
                kind="router",
                pool=candidates,
                prompt_tokens_max=prompt_size(messages, tools).at_most,
                bound=Bound(tools, {"tool_choice": "any"} if must_call else {}, {}),
            ),
            charges=request.attempt.charges,
        )
        if result.message is None:
            kind = PolicyTimeoutError if result.error == "timeout" else PolicyError
            raise kind(f"{self.card.model_name} failed ({result.error}): {result.detail}")
        actions = codec.parse(result.message, request, candidates, direct=self.direct_answers)
        first = next((action.card for action in actions if action.card is not None), None)
        return Proposal(
            probabilities={c.name: 0.0 for c in candidates}
            if first is None
            else one_hot(first, candidates),
            actions=actions,
            propensity=None,  # a chat model does not tell with what probability it chose
            reason=f"{self.card.model_name} chose",
            message=result.message,
            prompt_hash=self.prompt_hash,
        )

    def worst_case_usd(
        self, request: RouteRequest, candidates: Sequence[ModelCard]
    ) -> Decimal | None:
        messages, tools = codec.render(request, candidates, direct=self.direct_answers)
        bound = prompt_size(messages, tools).at_most
        return worst_case(self.card, bound, self.max_output_tokens)

    def __repr__(self) -> str:
        return f"PromptedPolicy({self.card.model_name})"
