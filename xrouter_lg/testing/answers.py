"""Which call gets which fault: `FaultPlan`, and the short notation for the command line."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from xrouter_lg.testing import faults
from xrouter_lg.testing.faults import Fault


@dataclass(frozen=True)
class Call:
    """The call that a rule decides about."""

    model: str
    number: int
    """Calls of this model since the plan was set, from 0."""
    body: Mapping[str, Any] = field(default_factory=dict)


Rule = Callable[[Call], Fault | None]
RuleLike = Fault | Sequence[Fault | None] | Rule | None
"""A fault (every call), a sequence (call by call, then none), a function, or None."""


def always(fault: Fault) -> Rule:
    """Every call fails."""
    return lambda call: fault


def first(count: int, fault: Fault) -> Rule:
    """The first `count` calls fail."""
    return lambda call: fault if call.number < count else None


def on_call(number: int, fault: Fault) -> Rule:
    """Only one call fails, counted from 0."""
    return lambda call: fault if call.number == number else None


def sometimes(probability: float, rule: RuleLike, *, seed: int = 0) -> Rule:
    """A call meets `rule` with `probability`.

    The draw depends on seed, model and call number alone: concurrency does not change it.
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"probability={probability!r} is not between 0 and 1")
    inner = as_rule(rule)

    def drawn(call: Call) -> Fault | None:
        draw = random.Random(f"{seed}:{call.model}:{call.number}").random()
        return inner(call) if draw < probability else None

    return drawn


def as_rule(rule: RuleLike) -> Rule:
    """Make a function of any form of rule."""
    if rule is None:
        return lambda call: None
    if isinstance(rule, Fault):
        return always(rule)
    if callable(rule):
        return rule
    if not isinstance(rule, Sequence) or isinstance(rule, str):
        raise TypeError(
            f"{rule!r} is not a fault rule; give a Fault, a sequence of Fault or None, a "
            "function of a Call, or None (FaultPlan.parse reads text)"
        )
    steps = tuple(rule)
    for step in steps:
        if step is not None and not isinstance(step, Fault):
            raise TypeError(f"{step!r} in a fault sequence is neither a Fault nor None")
    return lambda call: steps[call.number] if call.number < len(steps) else None


class FaultPlan:
    """The faults of a server: a rule per model, and a default for all others.

    `probability` and `seed` weaken the default rule to a share of the calls. A plan holds no
    state; the server counts the calls of each model from the moment the plan is set.
    """

    def __init__(
        self,
        models: Mapping[str, RuleLike] | None = None,
        *,
        default: RuleLike = None,
        probability: float | None = None,
        seed: int = 0,
    ) -> None:
        self._rules = {name: as_rule(rule) for name, rule in (models or {}).items()}
        self._default = (
            as_rule(default) if probability is None else sometimes(probability, default, seed=seed)
        )

    def fault_for(self, call: Call) -> Fault | None:
        """The fault this call meets, or None."""
        return self._rules.get(call.model, self._default)(call)

    @classmethod
    def parse(cls, spec: str, *, seed: int = 0) -> FaultPlan:
        """Read a plan such as `small:429=0.1,500,ok;large:reset*2;*:503@0.2`.

        Models are separated by `;` (the last colon of each ends its name), faults by `,` in
        the order of the calls. `=VALUE` is the fault's argument (seconds, tokens, a model, a
        code), `*N` repeats it N times, a lone `fault*` is every call, and a lone
        `fault@P` every call with probability P. The model `*` is the default.
        """
        rules: dict[str, RuleLike] = {}
        for part in filter(None, (part.strip() for part in spec.split(";"))):
            model, colon, items = part.rpartition(":")
            if not colon or not model.strip():
                raise ValueError(f"{part!r} names no model; write MODEL:FAULT, or *:FAULT")
            rules[model.strip()] = _parse_rule(items.strip(), seed)
        default = rules.pop("*", None)
        return cls(rules, default=default)


def _parse_rule(items: str, seed: int) -> RuleLike:
    if "," not in items and items.endswith("*"):
        return _parse_fault(items[:-1])
    if "," not in items and "@" in items:
        name, _, chance = items.rpartition("@")
        return sometimes(_number(chance, float, items), _parse_fault(name), seed=seed)
    steps: list[Fault | None] = []
    for item in items.split(","):
        name, star, count = item.partition("*")
        steps += [_parse_fault(name)] * (_number(count, int, item) if star else 1)
    return steps


_WITHOUT_VALUE: dict[str, Callable[[], Fault]] = {
    "401": faults.auth_error,
    "quota": lambda: faults.rate_limit(insufficient_quota=True),
    "context": lambda: faults.bad_request("context_length_exceeded"),
    "reset": faults.reset,
    "empty": faults.empty,
    "no_usage": faults.missing_usage,
    "malformed": faults.malformed_json,
    **{str(code): partial(faults.server_error, code) for code in (500, 502, 503, 504, 529)},
}
_WITH_VALUE: dict[str, tuple[Callable[..., Fault], Callable[[str], Any]]] = {
    "429": (faults.rate_limit, float),
    "400": (faults.bad_request, str),
    "html": (faults.html_page, int),
    "hang": (faults.hang, float),
    "slow": (faults.slow_stream, float),
    "cut": (faults.cut_stream, int),
    "error": (faults.stream_error, int),
    "truncated": (faults.truncated, int),
    "filter": (faults.content_filter, int),
    "wrong_model": (faults.wrong_model, str),
}


def _parse_fault(item: str) -> Fault | None:
    name, equals, value = (part.strip() for part in item.strip().partition("="))
    if name == "ok" and not equals:
        return None
    if name in _WITHOUT_VALUE and not equals:
        return _WITHOUT_VALUE[name]()
    if name in _WITH_VALUE:
        build, convert = _WITH_VALUE[name]
        return build(_number(value, convert, item)) if equals else build()
    known = ", ".join(["ok", *_WITHOUT_VALUE, *(f"{key}[=value]" for key in _WITH_VALUE)])
    raise ValueError(f"{item!r} is not a fault; known are: {known}")


def _number(text: str, convert: Callable[[str], Any], item: str) -> Any:
    try:
        return convert(text)
    except ValueError:
        raise ValueError(f"{text!r} in {item!r} is not a number") from None
