"""Episodes of several decisions: call, look at a digest of the answer, accept it or call another.

Each decision is one token. The letters of calls come first: one a card, then one a pair of cards
that are called at once (their agreement is a signal that no single decision has). The letters of
answers follow, in the order of their arrival. Costs add up: every call, and the router's own tokens
on every turn. The last decision can only accept, as in serving (:class:`xrouter_lg.types.
RouteRequest.last_turn`).

This is a learned cascade: what the policy sees of an answer is what
:func:`xrouter_lg.prompts.slots.render_question` shows when the router serves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from langchain_core.messages import AIMessage, BaseMessage

from training.data.reward import Reward
from training.grpo.episodes import Episodes
from training.grpo.outcome_source import Bools, Floats, Ints, OutcomeSource
from training.grpo.turns import Actions, Results, TurnState, mean_known
from training.warm_start.rows import Samples
from xrouter_lg.prompts import slots
from xrouter_lg.types import Answer


@dataclass(frozen=True)
class Letters:
    """What the letters of a sequential policy stand for, M cards and some pairs of them.

    Raises:
        ValueError: more letters than the alphabet has, or a pair that is none.
    """

    cards: int
    turns: int
    pairs: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        if self.turns < 1:
            raise ValueError(f"turns is {self.turns!r}; it must be 1 or more")
        for pair in self.pairs:
            if len(set(pair)) != 2 or not all(0 <= card < self.cards for card in pair):
                raise ValueError(f"{pair} is no pair of two of {self.cards} cards")
        if len(self.calls) > len(slots.CARD_SLOTS) or self.answers > len(slots.ANSWER_SLOTS):
            raise ValueError(
                f"{len(self.calls)} calls and {self.answers} answers; there are "
                f"{len(slots.CARD_SLOTS)} and {len(slots.ANSWER_SLOTS)} letters"
            )

    @property
    def calls(self) -> tuple[tuple[int, ...], ...]:
        """Cards that each call letter calls."""
        return (*((card,) for card in range(self.cards)), *self.pairs)

    @property
    def answers(self) -> int:
        """Answers that can have arrived when the last decision is taken."""
        if self.turns == 1:
            return 0
        return (self.turns - 1) * (2 if self.pairs else 1)

    def __len__(self) -> int:
        return len(self.calls) + self.answers


class SequentialEnvironment:
    """Episodes over a source whose answers have texts.

    ``lines`` are the candidate block's lines, one a call letter. ``router_usd(prompt)`` is what the
    router's own tokens cost on one turn. The episodes must keep each card in its slot.

    Raises:
        ValueError: the episodes deal slots anew, or another number of lines.
    """

    def __init__(
        self,
        source: OutcomeSource,
        episodes: Episodes,
        conversations: Sequence[Sequence[BaseMessage]],
        lines: Sequence[str],
        reward: Reward,
        *,
        letters: Letters,
        prior_M: Floats,
        expected_usd_M: Floats,
        names: Sequence[str],
        router_usd: Callable[[str], float] = lambda prompt: 0.0,
    ) -> None:
        place = np.arange(letters.cards)
        if not np.where(episodes.card_B_S >= 0, episodes.card_B_S == place, True).all():
            raise ValueError("the episodes deal slots anew; use Sampling(permute=False)")
        if len(lines) != len(letters.calls):
            raise ValueError(f"{len(lines)} lines for {len(letters.calls)} call letters")
        self._source, self._episodes, self._reward = source, episodes, reward
        self._conversations, self._letters, self._names = conversations, letters, names
        self._prior, self._expected, self._router_usd = prior_M, expected_usd_M, router_usd
        self.prefix = slots.render_prefix(lines)
        self._outcomes: dict[tuple[int, int], tuple[float, float]] = {}
        self._questions: dict[tuple[int, tuple[int, ...]], str] = {}

    @property
    def turns(self) -> int:
        return self._letters.turns

    def __len__(self) -> int:
        return len(self._episodes)

    def state(self, episode: int, actions: Actions) -> TurnState | None:
        letters = self._letters
        calls = len(letters.calls)
        if len(actions) >= letters.turns or any(action >= calls for action in actions):
            return None
        prompt = int(self._episodes.prompt_B[episode])
        called = self._called(actions)
        shown = self._shown(prompt, called)
        may_call = len(actions) + 1 < letters.turns or (letters.turns == 1 and not called)
        candidates = self._candidates(episode)
        legal_L = np.zeros(len(letters), dtype=np.bool_)
        prior_L, penalty_L = np.zeros(len(letters)), np.zeros(len(letters))
        weight = float(self._episodes.cost_weight_B[episode]) / self._reward.c_ref_usd
        factor_M = self._episodes.price_factor_B_S[episode]
        for letter, cards in enumerate(letters.calls):
            legal_L[letter] = may_call and all(candidates[c] and c not in called for c in cards)
            prior_L[letter] = max(self._prior[c] for c in cards)
            penalty_L[letter] = weight * sum(self._expected[c] * factor_M[c] for c in cards)
        for place, card in enumerate(shown):
            legal_L[calls + place] = True
            prior_L[calls + place] = self._prior[card]
        if not legal_L.any():
            return None
        return TurnState(self.prefix, self._question(prompt, shown), legal_L, prior_L, penalty_L)

    def advance(self, taken: Sequence[tuple[int, Actions]]) -> None:
        """Ask about every new pair of prompt and card at once."""
        calls = self._letters.calls
        wanted = {
            (int(self._episodes.prompt_B[episode]), card): None
            for episode, actions in taken
            if actions[-1] < len(calls)
            for card in calls[actions[-1]]
        }
        new = [pair for pair in wanted if pair not in self._outcomes]
        if not new:
            return
        prompts, cards = (np.array(side, dtype=np.int64) for side in zip(*new, strict=True))
        scores, costs = self._source.ask(prompts, cards)
        for pair, score, cost in zip(new, scores.tolist(), costs.tolist(), strict=True):
            self._outcomes[pair] = (score, cost)

    def results(self, taken: Sequence[tuple[int, Actions]]) -> Results:
        score_B, cost_B = np.full(len(taken), np.nan), np.full(len(taken), np.nan)
        used: list[int] = []
        for row, (episode, actions) in enumerate(taken):
            card, score_B[row], cost_B[row] = self._outcome(episode, actions)
            used.append(card)
        weight_B = self._episodes.cost_weight_B[np.array([episode for episode, _ in taken])]
        reward_B = self._reward.many(score_B, cost_B, weight_B)
        counts = [len(self._called(actions)) for _, actions in taken]
        chosen = np.array(used)
        metrics = {
            "score": mean_known(score_B),
            "cost_usd": mean_known(cost_B),
            "legal": 1.0,
            "calls": float(np.mean(counts)),
            **{f"share/{name}": float((chosen == m).mean()) for m, name in enumerate(self._names)},
        }
        return Results(reward_B, metrics)

    def _outcome(self, episode: int, actions: Actions) -> tuple[int, float, float]:
        """Card that answered (-1: none), score and cost; NaN where unknown."""
        prompt, calls = int(self._episodes.prompt_B[episode]), len(self._letters.calls)
        called = self._called(actions)
        factor_M = self._episodes.price_factor_B_S[episode]
        cost = sum(self._outcomes[prompt, card][1] * factor_M[card] for card in called)
        for turn in range(len(actions)):
            seen = self._shown(prompt, self._called(actions[:turn]))
            cost += self._router_usd(self.prefix + self._question(prompt, seen))
        if actions[-1] >= calls:
            card = self._shown(prompt, called)[actions[-1] - calls]
        elif self._letters.turns == 1:
            card = called[-1]
        else:
            return -1, float("nan"), float("nan")
        return card, self._outcomes[prompt, card][0], cost

    def _candidates(self, episode: int) -> Bools:
        found: Bools = self._episodes.card_B_S[episode] >= 0
        return found

    def _called(self, actions: Actions) -> tuple[int, ...]:
        calls = self._letters.calls
        return tuple(card for a in actions if a < len(calls) for card in calls[a])

    def _shown(self, prompt: int, called: Sequence[int]) -> tuple[int, ...]:
        """The called cards that gave an answer: only those have a letter."""
        return tuple(c for c in called if self._source.answer(prompt, c) is not None)

    def _question(self, prompt: int, shown: tuple[int, ...]) -> str:
        key = (prompt, shown)
        if key not in self._questions:
            self._questions[key] = question_with_answers(
                self._source, self._conversations[prompt], self._names, prompt, shown
            )
        return self._questions[key]


def question_with_answers(
    source: OutcomeSource,
    messages: Sequence[BaseMessage],
    names: Sequence[str],
    prompt: int,
    cards: Sequence[int],
) -> str:
    """The rendered question after these cards have answered.

    Raises:
        ValueError: an answer without a text.
    """
    answers = []
    for number, card in enumerate(cards, 1):
        found = source.answer(prompt, card)
        if found is None:
            raise ValueError(f"no text is recorded of {names[card]!r} on prompt {prompt}")
        message = AIMessage(found.text)
        answers.append(Answer(f"c{number}", names[card], message, found.truncated))
    return slots.render_question(messages, answers)


Shown = tuple[int, ...]
"""Cards that have answered, in the order of their arrival."""


def draw_states(
    prompts: int, letters: Letters, rng: np.random.Generator, *, states_per_prompt: int = 2
) -> list[tuple[int, Shown]]:
    """Rows and who has answered in them, for the warm start of a sequential policy: the first state
    of every prompt, and ``states_per_prompt`` in which random cards have answered."""
    states: list[tuple[int, Shown]] = []
    most = min(letters.answers, letters.cards)
    for row in range(prompts):
        states.append((row, ()))
        for _ in range(states_per_prompt if most else 0):
            count = int(rng.integers(1, most + 1))
            states.append((row, tuple(rng.permutation(letters.cards)[:count].tolist())))
    return states


def sequential_samples(
    states: Sequence[tuple[int, Shown]],
    prompt_S: Ints,
    target_N_M: Floats,
    score_N_M: Floats,
    letters: Letters,
    prior_M: Floats,
    *,
    answer_share: float = 0.8,
) -> Samples:
    """Rows to learn from: ``prompt_S`` are the reading's numbers of the states' prompts.

    A call's target is that of its card (of a pair: the better of the two). An answer's is its own
    recorded score, mixed with the card's target: the digest tells of this very answer.
    """
    calls = letters.calls
    prior = np.zeros((len(states), len(letters)))
    target = np.full((len(states), len(letters)), np.nan)
    for number, (row, shown) in enumerate(states):
        for letter, cards in enumerate(calls):
            prior[number, letter] = max(prior_M[c] for c in cards)
            if not set(cards) & set(shown):
                target[number, letter] = max(target_N_M[row, c] for c in cards)
        for place, card in enumerate(shown, len(calls)):
            prior[number, place] = prior_M[card]
            target[number, place] = (
                answer_share * score_N_M[row, card] + (1 - answer_share) * target_N_M[row, card]
            )
    return Samples(prompt_S, prior, target)


def pair_line(pair: tuple[int, int]) -> str:
    """What the prompt says of a pair: the letters of its two cards."""
    first, second = (slots.CARD_SLOTS[card] for card in pair)
    return f"{first} and {second} at once"
