"""A policy's proposal, read strictly: what the router goes on with is plain, small and its own.

A policy is anybody's code, and a routing model's output passes through it. Whatever of a proposal
is not what :class:`~xrouter_lg.types.Proposal` says costs the proposal, and so a fallback, and
never the request. What is only told on (a reason, a hint, token ids) is cut or made JSON instead.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

from langchain_core.messages import AIMessage

from xrouter_lg.errors import InvalidProposalError
from xrouter_lg.json_text import check_size, encodable, from_json, shown, to_json
from xrouter_lg.pool.card import ModelCard
from xrouter_lg.typed import is_finite
from xrouter_lg.types import Action, Answer, Attempt, Charge, Proposal

MAX_PARALLEL_CALLS = 4
"""Calls that a policy may propose in one turn."""

HINT_CHARS = 4_000
REASON_CHARS = 1_000
"""Beyond these a hint and a reason are cut."""

_MOST_TOKENS = 2**31 - 1
_MOST_SCORES = 1_000
_MOST_VALUES = 200_000
"""Values in all that token ids or notes may hold."""


def read_proposal(
    proposal: Any, candidates: Sequence[ModelCard], answers: Sequence[Answer] = ()
) -> Proposal:
    """The proposal as a copy of plain values.

    Raises:
        InvalidProposalError: it is no set of actions on the candidates and the answers so far:
            unknown card, probability that is no number in [0, 1], none above zero and no action
            either, propensity outside (0, 1], nothing to explore by, an expected cost that is no
            sum of money, too many calls, mixed kinds of action, an answer selected that is not
            there; or a field is of another type.
    """
    names = [card.name for card in candidates]
    if not isinstance(proposal, Proposal):
        raise InvalidProposalError(f"it returned a {type(proposal).__name__}, not a Proposal")
    probabilities = _probabilities(proposal.probabilities, names, "probabilities")
    actions = _actions(proposal.actions, names, answers)
    if not actions and not any(probabilities.values()):
        raise InvalidProposalError("it gives no card a probability above 0, and names no action")
    propensity = proposal.propensity
    if propensity is not None and not (is_finite(propensity) and 0.0 < propensity <= 1.0 + 1e-6):
        raise InvalidProposalError(
            f"propensity is {shown(propensity)}; it must be above 0 and at most 1, or None"
        )
    explore = None
    if proposal.explore is not None:
        explore = _probabilities(proposal.explore, names, "explore")
        if not any(explore.values()):
            raise InvalidProposalError("explore gives no card a probability above 0")
    message = proposal.message
    if message is not None and not isinstance(message, AIMessage):
        raise InvalidProposalError(f"message is a {type(message).__name__}, not an AIMessage")
    return Proposal(
        probabilities=probabilities,
        actions=actions,
        propensity=None if propensity is None else float(propensity),
        reason=_text(proposal.reason, "reason")[:REASON_CHARS],
        quality=_quality(proposal.quality),
        message=message,
        prompt_hash=None
        if proposal.prompt_hash is None
        else _text(proposal.prompt_hash, "prompt_hash"),
        token_ids=None if proposal.token_ids is None else _json(proposal.token_ids, "token_ids"),
        explore=explore,
        cost_usd=None if proposal.cost_usd is None else _costs(proposal.cost_usd, names),
    )


def clean_attempt(attempt: Attempt) -> None:
    """Drop what a policy has left in the attempt that is no charge, or no note that is read."""
    if attempt.charges:
        attempt.charges[:] = [charge for charge in attempt.charges if _is_charge(charge)]
    for name, note in list(attempt.notes.items()):
        if not _is_note(name, note):
            del attempt.notes[name]


def _is_charge(charge: Any) -> bool:
    if not isinstance(charge, Charge):
        return False
    sums = (charge.cost_usd, charge.held_usd)
    return all(usd is None or (isinstance(usd, Decimal) and usd.is_finite()) for usd in sums)


def _is_note(name: Any, note: Any) -> bool:
    """Whether a note is one of those of :mod:`xrouter_lg.policies.rollout`."""
    if name == "drawn":
        return isinstance(note, str)
    if name not in ("arm", "shadow") or not isinstance(note, dict):
        return False
    try:
        check_size(note, most=_MOST_VALUES)
        json.dumps(note, allow_nan=False)
    except Exception:  # an object that raises when it is looked at
        return False
    if name == "arm":
        return isinstance(note.get("arm"), str) and is_finite(note.get("propensity"))
    told = (note.get(field) for field in ("policy", "policy_version", "status", "cost_usd"))
    return all(text is None or isinstance(text, str) for text in told)


def _some(values: Any, most: int, what: str) -> list[tuple[Any, Any]]:
    if not isinstance(values, Mapping):
        raise InvalidProposalError(f"{what} is a {type(values).__name__}, not a mapping")
    items = list(itertools.islice(values.items(), most + 1))
    if len(items) > most:
        raise InvalidProposalError(f"{what} has more than {most} entries")
    return items


def _probabilities(values: Any, names: Sequence[str], what: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, value in _of_candidates(values, names, what, "gives a probability to"):
        if not is_finite(value) or not 0.0 <= value <= 1.0 + 1e-6:
            raise InvalidProposalError(
                f"its probability of {name!r} is {shown(value)}; it must be a number in [0, 1]"
            )
        found[name] = float(value)
    return found


def _costs(values: Any, names: Sequence[str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, value in _of_candidates(values, names, "cost_usd", "expects a cost of"):
        if not is_finite(value) or value < 0.0:
            raise InvalidProposalError(
                f"its expected cost of {name!r} is {shown(value)}; it must be USD, 0 or more"
            )
        found[name] = float(value)
    return found


def _of_candidates(
    values: Any, names: Sequence[str], what: str, does: str
) -> list[tuple[str, Any]]:
    items = _some(values, len(names), what)
    for name, _ in items:
        if not isinstance(name, str) or name not in names:
            raise InvalidProposalError(
                f"it {does} {shown(name)}, which is no candidate ({', '.join(names)})"
            )
    return items


def _quality(values: Any) -> dict[str, float] | None:
    if values is None:
        return None
    found: dict[str, float] = {}
    for name, value in _some(values, _MOST_SCORES, "quality"):
        if not isinstance(name, str) or not is_finite(value):
            raise InvalidProposalError(
                f"its expected quality of {shown(name)} is {shown(value)}; it must be a number"
            )
        found[name] = float(value)
    return found


def _actions(actions: Any, names: Sequence[str], answers: Sequence[Answer]) -> tuple[Action, ...]:
    if not isinstance(actions, tuple | list):
        raise InvalidProposalError(f"actions is a {type(actions).__name__}, not a tuple")
    if len(actions) > MAX_PARALLEL_CALLS:
        raise InvalidProposalError(
            f"it proposes {len(actions)} calls in one turn; at most {MAX_PARALLEL_CALLS}"
        )
    read = tuple(_action(action, names, answers) for action in actions)
    kinds = {action.kind for action in read}
    if len(kinds) > 1:
        raise InvalidProposalError(f"it mixes {' and '.join(sorted(kinds))} in one turn")
    if kinds and kinds != {"call"} and len(read) > 1:
        raise InvalidProposalError(f"it proposes {len(read)} final answers at once")
    return read


def _action(action: Any, names: Sequence[str], answers: Sequence[Answer]) -> Action:
    """The action with what its kind has, and nothing else."""
    if not isinstance(action, Action):
        raise InvalidProposalError(f"an action is a {type(action).__name__}, not an Action")
    if action.kind == "call":
        return _call(action, names)
    if action.kind == "answer":
        if not isinstance(action.text, str) or not action.text.strip():
            raise InvalidProposalError("it answers itself with an empty text")
        return Action("answer", text=encodable(action.text))
    if action.kind == "select":
        known = [answer.call_id for answer in answers]
        if not isinstance(action.call_id, str) or action.call_id not in known:
            raise InvalidProposalError(
                f"it selects {shown(action.call_id)}, which is no answer "
                f"({', '.join(known) or 'none'})"
            )
        return Action("select", call_id=action.call_id)
    raise InvalidProposalError(
        f"its action is a {shown(action.kind)}; it must be a call, a select or an answer"
    )


def _call(action: Action, names: Sequence[str]) -> Action:
    if not isinstance(action.card, str) or action.card not in names:
        raise InvalidProposalError(
            f"it calls {shown(action.card)}, which is no candidate ({', '.join(names)})"
        )
    most = action.max_tokens
    if most is not None and (
        isinstance(most, bool) or not isinstance(most, int) or not 1 <= most <= _MOST_TOKENS
    ):
        raise InvalidProposalError(
            f"max_tokens is {shown(most)}; it must be a whole number, at least 1"
        )
    heat = action.temperature
    if heat is not None and not (is_finite(heat) and 0.0 <= heat <= 2.0):
        raise InvalidProposalError(f"temperature is {shown(heat)}; it must lie between 0 and 2")
    hint = None if action.hint is None else _text(action.hint, "hint")[:HINT_CHARS]
    return replace(
        action,
        hint=hint,
        max_tokens=None if most is None else int(most),
        temperature=None if heat is None else float(heat),
        call_id=None,
        text=None,
    )


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise InvalidProposalError(f"{what} is {shown(value)}; it must be text")
    return encodable(str.__str__(value))


def _json(value: Any, what: str) -> Any:
    if not isinstance(value, Mapping):
        raise InvalidProposalError(f"{what} is a {type(value).__name__}, not a mapping")
    try:
        check_size(value, most=_MOST_VALUES)
        return from_json(to_json(value))
    except ValueError as error:
        raise InvalidProposalError(f"{what} is no JSON: {error}") from error
