"""The small world that the agent's tools look into: a shop, its staff, a calendar.

A tool that is used wrongly says so in its result, as real ones do, and names what it takes.
"""

from __future__ import annotations

import ast
import datetime as dt
import operator
from collections.abc import Callable
from typing import Any

from langchain_core.tools import BaseTool, StructuredTool, ToolException

ITEMS: dict[str, tuple[int, int]] = {
    "lamp": (34, 12),
    "chair": (58, 31),
    "desk": (215, 4),
    "rug": (89, 9),
    "shelf": (72, 17),
    "mirror": (46, 8),
    "clock": (27, 40),
    "bench": (133, 6),
    "vase": (19, 55),
    "stool": (41, 23),
    "sofa": (640, 3),
    "basket": (15, 64),
}
"""Item → price in euros, pieces in stock."""

STAFF: dict[str, tuple[str, str, int]] = {
    "Ada Brandt": ("Ada Brandt", "Oslo", 4101),
    "Bruno Costa": ("Ada Brandt", "Porto", 4172),
    "Chloe Duval": ("Ada Brandt", "Lyon", 4139),
    "Dario Esposito": ("Bruno Costa", "Napoli", 4186),
    "Elif Kaya": ("Bruno Costa", "Izmir", 4155),
    "Femke Visser": ("Chloe Duval", "Utrecht", 4123),
    "Goran Horvat": ("Chloe Duval", "Zagreb", 4198),
    "Hana Novak": ("Dario Esposito", "Brno", 4144),
    "Igor Petrov": ("Elif Kaya", "Varna", 4167),
    "Jana Kovac": ("Femke Visser", "Split", 4112),
    "Karl Lind": ("Femke Visser", "Malmo", 4181),
    "Lucia Rossi": ("Goran Horvat", "Parma", 4136),
}
"""Employee → manager, city, phone; the first is her own manager."""

_OPERATORS: dict[type, Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.USub: operator.neg,
}


def price(item: str) -> str:
    """The price in euros of one piece of an item."""
    return f"{_item(item)[0]}"


def stock(item: str) -> str:
    """How many pieces of an item are in stock."""
    return f"{_item(item)[1]}"


def employee(name: str) -> str:
    """Manager, city and phone of the employee with this full name."""
    for known, (manager, city, phone) in STAFF.items():
        if known.lower() == name.strip().lower():
            return f"manager: {manager}, city: {city}, phone: {phone}"
    raise ToolException(f"no employee {name!r}. Give a first and a last name.")


def add_days(date: str, days: int) -> str:
    """The date so many days after a date (YYYY-MM-DD), and its day of the week."""
    try:
        found = dt.date.fromisoformat(date.strip()) + dt.timedelta(days=days)
    except (ValueError, OverflowError):
        raise ToolException(f"no date {date!r}. Write YYYY-MM-DD.") from None
    return f"{found.isoformat()}, a {found.strftime('%A')}"


def calculate(expression: str) -> str:
    """The value of an arithmetic expression of numbers, such as (3 * 34) + 58."""
    try:
        value = _value(ast.parse(expression, mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError):
        raise ToolException(
            f"can't calculate {expression!r}. Give numbers, + - * / and brackets only."
        ) from None
    return f"{round(value, 2):g}"


def tools() -> list[BaseTool]:
    """All tools; what one raises becomes a result with the status ``error``."""
    functions: list[Callable[..., str]] = [price, stock, employee, add_days, calculate]
    return [
        StructuredTool.from_function(function, handle_tool_error=True) for function in functions
    ]


def _item(name: str) -> tuple[int, int]:
    found = ITEMS.get(name.strip().lower())
    if found is None:
        raise ToolException(f"no item {name!r}. Give one item in the singular, such as 'lamp'.")
    return found


def _value(node: ast.expr) -> float:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return float(node.value)
    if isinstance(node, ast.UnaryOp) and type(node.op) in _OPERATORS:
        return float(_OPERATORS[type(node.op)](_value(node.operand)))
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return float(_OPERATORS[type(node.op)](_value(node.left), _value(node.right)))
    raise ValueError(ast.dump(node))
