"""Facts of a sentence as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from random import Random
from typing import Any

from integrations.demo.recorded.task import Task

_NAMES = ("Anna", "Omar", "Lucas", "Mei", "Priya", "Jonas", "Elena", "David", "Fatima", "Oscar")
_CITIES = ("Rome", "Oslo", "Lima", "Kyoto", "Cairo", "Boston", "Vienna", "Dublin", "Porto", "Delhi")
_JOBS = ("nurse", "pilot", "baker", "teacher", "lawyer", "gardener", "chef", "engineer")
_GOODS = ("lamp", "chair", "kettle", "camera", "tent", "jacket", "ladder", "radio")
_COLOURS = ("red", "blue", "green", "black", "white", "grey")


def _person(rng: Random) -> tuple[str, dict[str, Any]]:
    facts = {"name": rng.choice(_NAMES), "age": rng.randrange(18, 80), "city": rng.choice(_CITIES)}
    return "{name} is {age} years old and lives in {city}.".format(**facts), facts


def _worker(rng: Random) -> tuple[str, dict[str, Any]]:
    facts = {"name": rng.choice(_NAMES), "job": rng.choice(_JOBS), "years": rng.randrange(2, 30)}
    return "{name} has worked as a {job} for {years} years.".format(**facts), facts


def _order(rng: Random) -> tuple[str, dict[str, Any]]:
    facts = {
        "item": rng.choice(_GOODS),
        "color": rng.choice(_COLOURS),
        "quantity": rng.randrange(2, 13),
        "price": rng.randrange(5, 95),
    }
    text = "Order: {quantity} times the {item} in {color}, for {price} dollars each."
    return text.format(**facts), facts


def _flight(rng: Random) -> tuple[str, dict[str, Any]]:
    start, end = rng.sample(_CITIES, 2)
    facts = {"from": start, "to": end, "seats": rng.randrange(1, 7)}
    return f"Book {facts['seats']} seats on the flight to {end}; we leave from {start}.", facts


def json_extraction(rng: Random) -> Iterator[Task]:
    """Two to four fields with their types."""
    while True:
        text, facts = rng.choice((_person, _worker, _order, _flight))(rng)
        keys = list(facts)
        if rng.random() < 0.4:
            keys = rng.sample(keys, len(keys) - 1)
        types = {key: "integer" if isinstance(facts[key], int) else "string" for key in keys}
        wanted = ", ".join(f"{key} ({kind})" for key, kind in types.items())
        prompt = f"Reply with one JSON object with the keys {wanted}. Text: {text}"
        right = json.dumps({key: facts[key] for key in keys})
        yield Task("json_extraction", prompt, right, max_tokens=52)
