"""The learners of the stream, by the names that ``--learners`` takes.

A further learner is one line here: what makes it from a :class:`Setting`. It must implement
:class:`benchmarks.stream_parts.learner.Learner`, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from benchmarks.stream_parts.learner import Learner, Setting
from benchmarks.stream_parts.ours import XRouter
from benchmarks.stream_parts.rivals.epsilon import EpsilonGreedy
from benchmarks.stream_parts.rivals.linear import LinearThompson, LinUCB
from benchmarks.stream_parts.rivals.pareto import ParetoBandit
from benchmarks.stream_parts.rivals.simple import AtRandom
from benchmarks.stream_parts.rivals.thompson import FORGETTING, PerKindThompson
from benchmarks.stream_parts.shipped import ShippedLoop
from benchmarks.stream_parts.world import THUMB_SHARE

PARETO = "paretobandit"
"""What the names of all of its settings begin with."""
WORDS = f"{PARETO}-words"
"""On the shared features, where it would have its own."""
RANDOM = "random"
OURS = "xrouter_lg"
"""The shipped loop."""
ONLINE = f"{OURS}-online"
"""Its value model, were it to learn from every thumb as it comes in."""


def _words(setting: Setting) -> Learner:
    return ParetoBandit(replace(setting, own_features=None))


LEARNERS: dict[str, Callable[[Setting], Learner]] = {
    OURS: ShippedLoop,
    ONLINE: XRouter,
    RANDOM: AtRandom,
    "epsilon-greedy": EpsilonGreedy,
    "thompson": PerKindThompson,
    "thompson-forgetting": partial(PerKindThompson, forgetting=FORGETTING),
    "linucb": LinUCB,
    "linear-thompson": LinearThompson,
    PARETO: ParetoBandit,
    f"{PARETO}-memory": partial(ParetoBandit, memory=1.0 / THUMB_SHARE),
    f"{PARETO}-budget": partial(ParetoBandit, money="budget"),
    f"{PARETO}-dial": partial(ParetoBandit, money="dial"),
    WORDS: _words,
}
