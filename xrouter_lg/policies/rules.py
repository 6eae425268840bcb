"""Routing by rules that a person has written: the first one that fits decides."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence

from xrouter_lg.errors import PolicyConfigError
from xrouter_lg.policies.base import BasePolicy, by_price, one_hot
from xrouter_lg.pool.card import ModelCard, normalise_name
from xrouter_lg.said import text_of
from xrouter_lg.types import Proposal, RouteRequest

_READ_CHARS = 20_000
"""Of a question: a person's patterns may take any time on a long one."""


class RulesPolicy(BasePolicy):
    """Patterns on the user's last message, each with a card and a reason.

    ``rules`` are ``(pattern, card, reason)`` in order; patterns are regular expressions, searched
    without regard to case in the first 20,000 characters; one that takes longer than its text is
    long, such as ``(a+)+b``, holds all requests up. ``otherwise`` is the card where none fits. A
    card that can't take the request gives way to the cheapest one that can. A start on day one,
    and a baseline after.

    Raises:
        PolicyConfigError: a pattern that is no regular expression.
    """

    name = "rules"

    def __init__(self, rules: Iterable[tuple[str, str, str]], *, otherwise: str) -> None:
        self._rules = []
        for pattern, card, reason in rules:
            try:
                compiled = re.compile(pattern, re.IGNORECASE | re.DOTALL)
            except re.error as error:
                raise PolicyConfigError(
                    f"the rule for {card!r} has the pattern {pattern!r}, which is no regular "
                    f"expression: {error}"
                ) from error
            self._rules.append((compiled, normalise_name(card), reason))
        self._otherwise = normalise_name(otherwise)
        text = repr([(rule.pattern, card) for rule, card, _ in self._rules] + [self._otherwise])
        self.version = hashlib.sha256(text.encode()).hexdigest()[:12]

    async def propose(self, request: RouteRequest, candidates: Sequence[ModelCard]) -> Proposal:
        asked = [text_of(m) for m in request.messages if m.type == "human"]
        question = asked[-1] if asked else text_of(request.messages[-1])
        question = question[:_READ_CHARS]
        wanted, reason = self._otherwise, "no rule fits"
        for pattern, card, why in self._rules:
            if pattern.search(question):
                wanted, reason = card, why
                break
        if any(card.name == wanted for card in candidates):
            return Proposal(one_hot(wanted, candidates), reason=reason)
        chosen = by_price(candidates, request)[0].name
        return Proposal(
            one_hot(chosen, candidates), reason=f"{wanted!r} can't take this; cheapest that can"
        )
