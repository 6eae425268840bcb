"""Twenty questions of different kinds, each with a pattern that a right answer matches."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PatternQuestion:
    """A question, and a regular expression over a right answer (any case)."""

    text: str
    right: str

    def is_right(self, answer: str) -> bool:
        return re.search(self.right, answer, re.IGNORECASE | re.DOTALL) is not None


QUESTIONS: tuple[PatternQuestion, ...] = (
    PatternQuestion(
        "Is this review positive or negative: 'Great phone, love it'? One word.", "positive"
    ),
    PatternQuestion(
        "Is this review positive or negative: 'It broke in a day'? One word.", "negative"
    ),
    PatternQuestion("Is this message angry or friendly: 'Thanks so much!'? One word.", "friendly"),
    PatternQuestion("What is the capital of France? One word.", "paris"),
    PatternQuestion("What is the capital of Japan? One word.", "tokyo"),
    PatternQuestion("Which planet is known as the red planet? One word.", "mars"),
    PatternQuestion("How many days are in a week? Only the number.", r"\b7\b|seven"),
    PatternQuestion("What is 7 + 5? Only the number.", r"\b12\b"),
    PatternQuestion("What is 48 + 37? Only the number.", r"\b85\b"),
    PatternQuestion("What is 12 * 11? Only the number.", r"\b132\b"),
    PatternQuestion("A shirt costs 40 USD and is 25% off. What do two shirts cost?", r"\b60\b"),
    PatternQuestion("Tom has 3 bags of 12 apples and gives 7 away. How many are left?", r"\b29\b"),
    PatternQuestion(
        "What is the greatest common divisor of 84 and 36? Only the number.", r"\b12\b"
    ),
    PatternQuestion("A train goes 180 km in 2 hours. How far in 5 hours?", r"\b450\b"),
    PatternQuestion("Sort these numbers: 9, 4, 7, 1.", r"1\D+4\D+7\D+9"),
    PatternQuestion("Reverse the word 'stone'. Only the word.", r"\benots\b"),
    PatternQuestion("Write a Python function is_even(n). Only code.", r"%\s*2|&\s*1"),
    PatternQuestion(
        "Write a Python function that returns the largest of a list. Only code.", r"max|>"
    ),
    PatternQuestion("How do I reset my password? One sentence.", "password"),
    PatternQuestion("Translate 'good morning' into French. Only the translation.", "bonjour"),
)
