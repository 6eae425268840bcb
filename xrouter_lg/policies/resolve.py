"""What may be written for a policy, and the policy it stands for."""

from __future__ import annotations

from pathlib import Path

from langchain_core.language_models import BaseChatModel

from xrouter_lg.errors import PolicyConfigError, PoolError
from xrouter_lg.policies.base import Policy
from xrouter_lg.policies.baselines import (
    CheapestPolicy,
    FixedPolicy,
    RandomPolicy,
    StaticMixPolicy,
)
from xrouter_lg.policies.chat import PromptedPolicy
from xrouter_lg.pool import ModelCard, ModelPool

PolicyLike = Policy | BaseChatModel | ModelCard | str

_FORMS = (
    "'fixed' (the pool's default), 'fixed:CARD', 'cheapest', 'random', "
    "'mix:CARD=0.7,CARD=0.3', 'prompted:CARD' (a card of the pool routes by tool calls), "
    "a chat model, a ModelCard, or an object with name, version and propose"
)


def resolve_policy(policy: PolicyLike, pool: ModelPool) -> Policy:
    """The policy that a name, a chat model or a policy object stands for.

    Raises:
        PolicyConfigError: nothing that can propose; the message lists what can.
    """
    if isinstance(policy, BaseChatModel | ModelCard):
        return PromptedPolicy(policy)
    if isinstance(policy, Path):
        policy = str(policy)
    if isinstance(policy, str):
        return _from_text(policy, pool)
    if isinstance(policy, Policy):
        return policy
    raise PolicyConfigError(f"policy is {policy!r}; it takes {_FORMS}")


def _from_text(text: str, pool: ModelPool) -> Policy:
    head, _, rest = text.partition(":")
    try:
        if text == "fixed":
            return FixedPolicy()
        if text == "cheapest":
            return CheapestPolicy()
        if text == "random":
            return RandomPolicy()
        if head == "fixed" and rest:
            return FixedPolicy(pool[rest.strip()].name)
        if head == "prompted" and rest:
            return PromptedPolicy(pool[rest.strip()])
        if head == "mix" and rest:
            return _mix(rest, pool)
    except PoolError as error:
        raise PolicyConfigError(f"policy {text!r}: {error}") from error
    raise PolicyConfigError(f"policy {text!r} is not known; it takes {_FORMS}")


def _mix(text: str, pool: ModelPool) -> StaticMixPolicy:
    shares: dict[str, float] = {}
    for part in text.split(","):
        name, _, share = part.partition("=")
        try:
            shares[pool[name.strip()].name] = float(share)
        except ValueError as error:
            if isinstance(error, PoolError):
                raise
            raise PolicyConfigError(
                f"policy 'mix:{text}': {part.strip()!r} is no share; write CARD=NUMBER"
            ) from error
    return StaticMixPolicy(shares)
