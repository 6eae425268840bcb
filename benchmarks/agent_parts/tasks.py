"""The agent's tasks, drawn by a seeded generator: each has an answer that follows from the world.

Seven kinds, from one look-up to a chain of three calls. Wordings vary, so that a kind has to be
read out of a question's words.
"""

from __future__ import annotations

import datetime as dt
import random
import re
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.agent_parts.world import ITEMS, STAFF

SEED = 16
PER_KIND = 20
_ASKED = [name for name in sorted(STAFF) if name != "Lucia Rossi"]
"""Employees that tasks are about: all but the one of whom the agent is shown a solved task."""
_NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")
_BETWEEN_DIGITS = re.compile(r"(?<=[0-9]),(?=[0-9]{3})")


@dataclass(frozen=True, slots=True)
class AgentTask:
    """A question to the agent and its answer: a number or a word."""

    id: str
    kind: str
    question: str
    answer: str

    def is_solved_by(self, text: str) -> bool:
        """Whether an answer says it: its last number, or this word and no other of its kind."""
        if _NUMBER.fullmatch(self.answer):
            numbers = _NUMBER.findall(_BETWEEN_DIGITS.sub("", text))
            return bool(numbers) and abs(float(numbers[-1]) - float(self.answer)) < 0.005
        said = {word for word in _words_like(self.answer) if word.lower() in text.lower()}
        return said == {self.answer}


def tasks(per_kind: int = PER_KIND, seed: int = SEED) -> list[AgentTask]:
    """``per_kind`` tasks of each kind, no question twice, in an order that mixes the kinds."""
    found: list[AgentTask] = []
    for kind, draw in _KINDS.items():
        dice = random.Random(f"{seed}:{kind}")
        questions: dict[str, str] = {}
        while len(questions) < per_kind:
            question, answer = draw(dice)
            questions.setdefault(question, answer)
        found += [
            AgentTask(f"{kind}-{number:02}", kind, question, answer)
            for number, (question, answer) in enumerate(questions.items())
        ]
    return sorted(found, key=lambda task: (task.id[-2:], task.kind))


def _price(dice: random.Random) -> tuple[str, str]:
    item = dice.choice(sorted(ITEMS))
    if dice.random() < 0.5:
        asked = dice.choice(
            ["What does one {} cost?", "How many euros is a {}?", "Price of the {}?"]
        )
        return asked.format(item), str(ITEMS[item][0])
    asked = dice.choice(["How many pieces of {} do we have?", "Stock of the {}?"])
    return asked.format(item), str(ITEMS[item][1])


def _plural(dice: random.Random) -> tuple[str, str]:
    item = dice.choice(sorted(ITEMS))
    many = {"bench": "benches", "shelf": "shelves"}.get(item, f"{item}s")
    if dice.random() < 0.5:
        asked = dice.choice(["How much are {}, each?", "What is the price of our {}?"])
        return asked.format(many), str(ITEMS[item][0])
    asked = dice.choice(["How many {} are in stock?", "How many {} do we have?"])
    return asked.format(many), str(ITEMS[item][1])


def _person(dice: random.Random) -> tuple[str, str]:
    name = dice.choice(_ASKED)
    _, city, phone = STAFF[name]
    if dice.random() < 0.5:
        asked = dice.choice(["In which city is {}?", "Where does {} work?", "City of {}?"])
        return asked.format(name), city
    asked = dice.choice(["What is the phone number of {}?", "How do I call {}?", "Phone of {}?"])
    return asked.format(name), str(phone)


def _calendar(dice: random.Random) -> tuple[str, str]:
    date = dt.date(2026, 1, 1) + dt.timedelta(days=dice.randrange(365))
    days = dice.randint(10, 200)
    asked = dice.choice(
        [
            "Which day of the week is {1} days after {0}?",
            "A parcel leaves on {0} and takes {1} days. On which weekday does it arrive?",
        ]
    )
    return asked.format(date, days), (date + dt.timedelta(days=days)).strftime("%A")


def _order(dice: random.Random) -> tuple[str, str]:
    first, second = dice.sample(sorted(ITEMS), 2)
    n, m = dice.randint(2, 9), dice.randint(2, 9)
    asked = dice.choice(
        [
            "What do {} pieces of {} and {} pieces of {} cost together?",
            "I order {} x {} and {} x {}. What is the sum in euros?",
        ]
    )
    return asked.format(n, first, m, second), str(n * ITEMS[first][0] + m * ITEMS[second][0])


def _left(dice: random.Random) -> tuple[str, str]:
    item = dice.choice(sorted(ITEMS))
    sold = dice.randint(1, ITEMS[item][1] - 1)
    asked = dice.choice(
        [
            "We sell {} pieces of {}. How many are left in stock?",
            "After {} more sales of the {}, how many pieces remain?",
        ]
    )
    return asked.format(sold, item), str(ITEMS[item][1] - sold)


def _manager(dice: random.Random) -> tuple[str, str]:
    name = dice.choice(_ASKED[1:])
    _, city, phone = STAFF[STAFF[name][0]]
    if dice.random() < 0.5:
        asked = dice.choice(["In which city does the manager of {} work?", "City of {}'s manager?"])
        return asked.format(name), city
    asked = dice.choice(["Phone number of {}'s manager?", "Phone of the manager of {}?"])
    return asked.format(name), str(phone)


_KINDS: dict[str, Callable[[random.Random], tuple[str, str]]] = {
    "item": _price,
    "person": _person,
    "calendar": _calendar,
    "order": _order,
    "left": _left,
    "manager": _manager,
    "plural": _plural,
}
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def _words_like(answer: str) -> set[str]:
    return set(_DAYS) if answer in _DAYS else {city for _, city, _ in STAFF.values()}
