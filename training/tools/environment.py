"""The tools codec as an environment of TRL's: a rollout calls cards by name, as when serving.

A rollout is a conversation in the chat template of a model that knows tools. What the model reads
first (system prompt, request, tool schemas) is rendered by :mod:`xrouter_lg.prompts.tools`, so it
is what the router sends when it serves. Each candidate is a tool; with several turns so is
``select_response``. What a call gives comes from an outcome source, recorded or live.

One difference to serving is TRL's: tools can't change in the middle of a rollout, so with several
turns ``select_response`` is offered from the start.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage

from training.data.outcome_source import OutcomeSource
from training.data.reward import Reward
from training.grpo.episodes import Episodes
from xrouter_lg.pool.card import ModelCard
from xrouter_lg.prompts import tools as codec
from xrouter_lg.types import Answer, RouteRequest

Message = dict[str, Any]


@dataclass(frozen=True)
class ToolEpisodes:
    """Episodes for the tools codec, over N prompts × M cards of a source."""

    source: OutcomeSource
    episodes: Episodes
    conversations: Sequence[Sequence[BaseMessage]]
    cards: Sequence[ModelCard]
    reward: Reward
    default: int = 0
    """Card that serves when the router says nothing legal."""
    turns: int = 1
    """1: the called card's answer is the answer; more: look at answers, call again or select."""
    direct: bool = False
    """Whether the router may answer itself."""
    must_not_call_N: Sequence[bool] | None = None
    """Prompts that the router should answer itself."""
    own_answer_N: Sequence[str | None] | None = None
    """What it should say then, as far as that is known."""
    illegal_penalty: float = 0.5
    """Score points taken from a rollout that says nothing legal; the default card then answers."""
    router_usd_per_million: float = 0.0

    def __len__(self) -> int:
        return len(self.episodes)

    def candidates(self, episode: int) -> list[int]:
        """Cards of an episode, in the order in which they are shown."""
        return [int(card) for card in self.episodes.card_B_S[episode] if card >= 0]

    def opening(self, episode: int) -> tuple[list[Message], list[dict[str, Any]]]:
        """What the router model reads first: messages and tool schemas."""
        messages = self.conversations[self.episodes.prompt_B[episode]]
        # An answer in sight is what makes the codec offer select_response.
        seen = (Answer("c0", "", AIMessage("")),) if self.turns > 1 else ()
        request = RouteRequest(
            messages=messages,
            cost_weight=round(float(self.episodes.cost_weight_B[episode]), 3),
            max_turns=self.turns,
            answers=seen,
        )
        cards = [self.cards[card] for card in self.candidates(episode)]
        rendered, tools = codec.render(request, cards, direct=self.direct)
        return [_plain(message) for message in rendered], tools

    def call(self, card: int) -> Message:
        """The router's message that calls a card, without options."""
        return _calls(self.cards[card].tool_name, {})

    def must_not_call(self, prompt: int) -> bool:
        """Whether the router may answer, and should."""
        return self.direct and self.must_not_call_N is not None and self.must_not_call_N[prompt]

    def answer(self, prompt: int) -> Message | None:
        """The router's own answer; None where nobody has said what it should be."""
        text = None if self.own_answer_N is None else self.own_answer_N[prompt]
        return {"role": "assistant", "content": text} if text else None

    def select(self, call_id: str) -> Message:
        """The router's message that selects an answer."""
        return _calls(codec.SELECT_TOOL, {"call_id": call_id})

    def shown(self, number: int, prompt: int, card: int) -> str:
        """What the router sees of the answer to its call number ``number``, counted from 1."""
        found = self.source.answer(prompt, card)
        if found is None:
            return f"c{number} failed: no answer"
        answer = Answer(f"c{number}", self.cards[card].name, AIMessage(found.text), found.truncated)
        call = {"name": self.cards[card].tool_name, "args": {}, "id": f"c{number}"}
        _, shown = codec.observe(AIMessage("", tool_calls=[call]), [answer])
        return str(shown.content)


class Rollout:
    """One rollout's state; :func:`environment_class` adds a method per tool."""

    _of: ToolEpisodes

    def __init__(self) -> None:
        self._episode = -1
        self._called: list[int] = []
        self._costs: list[float] = []
        self._scores: list[float] = []
        self._selected: int | None = None

    def reset(self, **row: Any) -> None:
        """Begin the episode of a row."""
        self._episode = int(row["episode"])
        self._called, self._costs, self._scores, self._selected = [], [], [], None

    @property
    def _prompt(self) -> int:
        return int(self._of.episodes.prompt_B[self._episode])

    def _call(self, card: int) -> str:
        of, prompt = self._of, self._prompt
        place = np.flatnonzero(of.episodes.card_B_S[self._episode] == card)
        if not len(place):
            raise ValueError(f"{of.cards[card].tool_name} is no candidate of this request")
        if self._selected is not None:
            raise ValueError("an answer has been selected")
        score, cost = of.source.ask(np.array([prompt]), np.array([card]))
        factor = of.episodes.price_factor_B_S[self._episode, place[0]]
        self._called.append(card)
        self._scores.append(float(score[0]))
        self._costs.append(float(cost[0]) * float(factor))
        return of.shown(len(self._called), prompt, card)

    def _select(self, call_id: str) -> str:
        known = [f"c{number}" for number in range(1, len(self._called) + 1)]
        if call_id not in known:
            raise ValueError(f"{call_id!r} is no answer ({', '.join(known) or 'none'})")
        self._selected = known.index(call_id)
        return f"{call_id} is returned."


@dataclass(frozen=True)
class RolloutResult:
    """What a rollout came to."""

    reward: float
    score: float
    cost_usd: float
    legal: bool
    card: int | None
    """Card that answered; None when the router did."""
    calls: int


def environment_class(of: ToolEpisodes) -> type[Rollout]:
    """The class that TRL's ``environment_factory`` makes instances of: its public methods are the
    tools. TRL finds them on the class, so it is built for the pool at hand."""
    methods: dict[str, Any] = {"_of": of}
    for index, card in enumerate(of.cards):
        methods[card.tool_name] = _call_method(index, card)
    if of.turns > 1:
        methods[codec.SELECT_TOOL] = _select_method()
    return type("RouterRollout", (Rollout,), methods)


def result_of(rollout: Rollout, completion: Sequence[Message], router_tokens: int) -> RolloutResult:
    """What a finished rollout earned. ``router_tokens`` are its prompt's and its own."""
    of, prompt = rollout._of, rollout._prompt
    episode = rollout._episode
    _select_at_the_end(rollout, completion)
    cost = sum(rollout._costs) + router_tokens * of.router_usd_per_million / 1e6
    penalty, legal, card = 0.0, True, None
    said = str(completion[0].get("content") or "").strip() if completion else ""
    if rollout._called:
        at = rollout._selected if rollout._selected is not None else 0
        score, card = rollout._scores[at], rollout._called[at]
    elif said and of.direct and not completion[0].get("tool_calls"):
        score = float(of.must_not_call(prompt))
    else:
        # As when serving: the default card answers.
        legal, penalty, card = False, of.illegal_penalty, of.default
        found, paid = of.source.ask(np.array([prompt]), np.array([of.default]))
        score, cost = float(found[0]), cost + float(paid[0])
    if card is not None and of.must_not_call_N is not None and of.must_not_call_N[prompt]:
        score = 0.0
    weight = float(of.episodes.cost_weight_B[episode])
    known = np.isfinite(score) and np.isfinite(cost)
    reward = of.reward.one(score, cost, weight) if known else None
    value = float("nan") if reward is None else reward - penalty
    return RolloutResult(value, score, cost, legal, card, len(rollout._called))


def _select_at_the_end(rollout: Rollout, completion: Sequence[Message]) -> None:
    """Obey a selection in the last message: TRL stops after the last answer was shown, and would
    have to generate once more to carry it out."""
    last = completion[-1] if completion else {}
    for call in last.get("tool_calls") or ():
        function = call["function"]
        if rollout._selected is None and function["name"] == codec.SELECT_TOOL:
            with contextlib.suppress(ValueError):
                rollout._select(str(function["arguments"].get("call_id", "")))


def _call_method(index: int, card: ModelCard) -> Callable[..., str]:
    def call(
        self: Rollout,
        hint: str = "",
        temperature: float | None = None,
        max_tokens: int | None = None,
    ) -> str:
        return self._call(index)

    call.__name__ = call.__qualname__ = card.tool_name
    call.__doc__ = (
        f"{card.description.strip() or 'Call this model.'}\n\n"
        "Args:\n"
        "    hint: Optional note for the model.\n"
        "    temperature: Sampling temperature.\n"
        "    max_tokens: Most tokens of the answer.\n\n"
        "Returns:\n"
        "    The answer.\n"
    )
    return call


def _select_method() -> Callable[..., str]:
    def select_response(self: Rollout, call_id: str) -> str:
        """Return one of the answers word for word.

        Args:
            call_id: Such as c1.

        Returns:
            What was selected.
        """
        return self._select(call_id)

    return select_response


def _calls(name: str, arguments: dict[str, Any]) -> Message:
    function = {"name": name, "arguments": arguments}
    return {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": function}],
    }


def _plain(message: BaseMessage) -> Message:
    roles = {SystemMessage: "system", HumanMessage: "user"}
    return {"role": roles[type(message)], "content": str(message.text)}
