"""What may be written for a policy, and the policy it stands for."""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote

from langchain_core.language_models import BaseChatModel

from xrouter_lg.calls.failures import describe
from xrouter_lg.checkpoints.manifest import CheckpointError, Manifest
from xrouter_lg.errors import PolicyConfigError, PoolError
from xrouter_lg.plugins import POLICIES, plugin, plugin_names
from xrouter_lg.policies.base import BasePolicy, Policy
from xrouter_lg.policies.base import PolicyLike as PolicyLike
from xrouter_lg.policies.baselines import (
    CheapestPolicy,
    FixedPolicy,
    RandomPolicy,
    StaticMixPolicy,
)
from xrouter_lg.policies.chat import PromptedPolicy
from xrouter_lg.policies.checkpoints import load_policy, remote_policy
from xrouter_lg.policies.following import followed
from xrouter_lg.policies.function import FunctionPolicy
from xrouter_lg.policies.rollout.canary import CanaryPolicy
from xrouter_lg.policies.rollout.shadow import ShadowPolicy
from xrouter_lg.policies.trained import TrainedPolicy
from xrouter_lg.pool.card import ModelCard
from xrouter_lg.pool.pool import ModelPool

_log = logging.getLogger(__name__)

_FORMS = (
    "'fixed' (the pool's default), 'fixed:CARD', 'cheapest', 'random', "
    "'mix:CARD=0.7,CARD=0.3', 'prompted:CARD' (a card of the pool routes by tool calls), "
    "a checkpoint's folder ('checkpoints/production', or 'checkpoint:FOLDER?base=FOLDER'), "
    "'vllm:http://HOST:PORT/v1?checkpoint=FOLDER' or 'llama_cpp:...' (a server runs it), "
    "'shadow:POLICY,POLICY' (the second proposes beside the first), 'canary:POLICY,POLICY=0.05' "
    "(the second decides 5 % of the threads), "
    "a chat model, a ModelCard, an object with name, version and propose, or a function of "
    "(request, candidates)"
)


def resolve_policy(policy: PolicyLike, pool: ModelPool) -> Policy:
    """The policy that a name, a path, a chat model or a policy object stands for.

    A path is a checkpoint's folder, or an alias (:mod:`xrouter_lg.checkpoints.aliases`): with a
    file ``checkpoints/production.json``, ``checkpoints/production`` is the checkpoint it points to,
    and the policy follows when the alias is moved.

    Raises:
        PolicyConfigError: nothing that can propose; the message lists what can. A checkpoint that
            is damaged, made for other prompts, or shares no card with the pool.
        MissingExtraError: a checkpoint, and what it needs is not installed.
    """
    if isinstance(policy, BaseChatModel | ModelCard):
        return PromptedPolicy(policy)
    if isinstance(policy, Path):
        return _checkpoint(str(policy), {}, pool)
    if isinstance(policy, str):
        return _from_text(policy, pool)
    if isinstance(policy, BasePolicy):
        return policy.resolved(lambda part: resolve_policy(part, pool))
    if isinstance(policy, Policy):
        return policy
    if callable(policy) and not isinstance(policy, type):
        return FunctionPolicy(policy)
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
    if head in ("shadow", "canary") and rest:
        pair = _shadow(rest) if head == "shadow" else _canary(rest)
        return resolve_policy(pair, pool)
    if head == "vllm" and rest:
        return _remote("vllm", rest, pool)
    if head == "llama_cpp" and rest:
        return _remote("llama_cpp", rest, pool)
    if head == "checkpoint" and rest:
        folder, options = _options(rest, "policy 'checkpoint:...'")
        return _checkpoint(folder, options, pool)
    if "/" in text or (text and (Path(text).is_dir() or Path(f"{text}.json").is_file())):
        return _checkpoint(text, {}, pool)
    if (brought := plugin(POLICIES, head)) is not None:
        return _from_plugin(brought, rest, pool)
    others = ", ".join(plugin_names(POLICIES))
    raise PolicyConfigError(
        f"policy {text!r} is not known; it takes {_FORMS}"
        + (f", or what installed packages bring: {others}" if others else "")
    )


def _from_plugin(brought: EntryPoint, argument: str, pool: ModelPool) -> Policy:
    """The policy that another package makes."""
    where = f"policy {brought.name!r} of {brought.value}"
    try:
        make = brought.load()
        made = make(argument) if argument else make()
    except Exception as error:  # what is in that package is its own affair
        raise PolicyConfigError(f"{where} can't be made: {describe(error)}") from error
    return resolve_policy(made, pool)


def _shadow(text: str) -> BasePolicy:
    main, comma, beside = text.rpartition(",")
    if not comma or not main.strip() or not beside.strip():
        raise PolicyConfigError(
            f"policy 'shadow:{text}' needs two policies: shadow:checkpoints/production,"
            "checkpoints/candidate"
        )
    return ShadowPolicy(main.strip(), beside.strip())


def _canary(text: str) -> BasePolicy:
    main, comma, rest = text.rpartition(",")
    candidate, equals, share = rest.rpartition("=")
    try:
        part = float(share)
    except ValueError:
        equals = ""
    if not comma or not equals or not main.strip() or not candidate.strip():
        raise PolicyConfigError(
            f"policy 'canary:{text}' needs two policies and the second one's share: "
            "canary:checkpoints/production,checkpoints/candidate=0.05"
        )
    return CanaryPolicy(main.strip(), candidate.strip(), share=part)


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


def _checkpoint(folder: str, options: dict[str, str], pool: ModelPool) -> Policy:
    where = f"policy 'checkpoint:{folder}'"
    taken = _taken(options, {"base": str, "dtype": str, "threads": int}, where)

    def build(path: Path) -> TrainedPolicy:
        policy = load_policy(path, **taken)
        _check_pool(policy.manifest, pool, where)
        return policy

    return followed(folder, build)


def _remote(kind: Literal["vllm", "llama_cpp"], rest: str, pool: ModelPool) -> Policy:
    where = f"policy '{kind}:...'"
    address, options = _options(rest, where)
    known: dict[str, Callable[[str], Any]] = {
        "checkpoint": str,
        "model": str,
        "api_key_env": str,
        "timeout_s": float,
    }
    taken = _taken(options, known, where)
    folder = taken.pop("checkpoint", None)
    if folder is None:
        raise PolicyConfigError(
            f"{where} needs the checkpoint's folder: {kind}:http://HOST:PORT/v1?checkpoint=FOLDER"
        )

    def build(path: Path) -> TrainedPolicy:
        policy = remote_policy(kind, address, path, **taken)
        _check_pool(policy.manifest, pool, where)
        return policy

    return followed(folder, build)


def _options(text: str, where: str) -> tuple[str, dict[str, str]]:
    """What stands before ``?``, and the options behind it."""
    before, _, query = text.partition("?")
    options: dict[str, str] = {}
    for part in filter(None, query.split("&")):
        key, equals, value = part.partition("=")
        if not equals or not value:
            raise PolicyConfigError(f"{where}: {part!r} is no option; write NAME=VALUE")
        options[key] = unquote(value)
    return before, options


def _taken(
    options: dict[str, str], known: dict[str, Callable[[str], Any]], where: str
) -> dict[str, Any]:
    taken: dict[str, Any] = {}
    for key, value in options.items():
        if key not in known:
            # Not the value: somebody may have written a key.
            raise PolicyConfigError(
                f"{where} has no option {key!r}; it takes {', '.join(sorted(known))}"
            )
        try:
            taken[key] = known[key](value)
        except ValueError as error:
            raise PolicyConfigError(f"{where}: {key} is {value!r}, no number") from error
    return taken


def _check_pool(manifest: Manifest, pool: ModelPool, where: str) -> None:
    """Refuse a checkpoint that knows none of the pool's cards; say which it does not know."""
    trained = {card.name for card in manifest.every_card}
    unknown = [name for name in pool.names if name not in trained]
    if len(unknown) == len(pool.names):
        raise CheckpointError(
            f"{where} was trained for other cards: it knows {', '.join(sorted(trained))}, the "
            f"pool has {', '.join(pool.names)}. Train on this pool, or name its cards as they were"
        )
    if unknown:
        _log.warning(
            "%s does not know %s: routed by the mean of the cards it knows, and by price",
            where,
            ", ".join(unknown),
        )
