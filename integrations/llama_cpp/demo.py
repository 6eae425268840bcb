"""The main job on real input: a support app over two local models, without and with routing."""

from __future__ import annotations

import difflib
import inspect
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from langchain_core.messages import AIMessage, HumanMessage
from rich.console import Console
from rich.table import Table

from graphs import support_app, support_app_routed
from xrouter_lg import ModelPool, Recorder
from xrouter_lg.calls.chat_model import build_chat_model
from xrouter_lg.policies.rules import RulesPolicy
from xrouter_lg.said import usage_of
from xrouter_lg.types import TokenUsage

from .measure import DEFAULT_USD_PER_HOUR
from .pool import local_pool

OUTPUT_TOKENS = 256

QUESTIONS = (
    ("Is this review positive or negative: 'Great phone, love it'? One word.", "positive"),
    ("Is this review positive or negative: 'It broke in a day'? One word.", "negative"),
    ("Is this message angry or friendly: 'Thanks so much!'? One word.", "friendly"),
    ("What is the capital of France? One word.", "paris"),
    ("What is the capital of Japan? One word.", "tokyo"),
    ("Which planet is known as the red planet? One word.", "mars"),
    ("How many days are in a week? Only the number.", r"\b7\b|seven"),
    ("What is 7 + 5? Only the number.", r"\b12\b"),
    ("What is 48 + 37? Only the number.", r"\b85\b"),
    ("What is 12 * 11? Only the number.", r"\b132\b"),
    ("A shirt costs 40 USD and is 25% off. What do two shirts cost?", r"\b60\b"),
    ("Tom has 3 bags of 12 apples and gives 7 away. How many are left?", r"\b29\b"),
    ("What is the greatest common divisor of 84 and 36? Only the number.", r"\b12\b"),
    ("A train goes 180 km in 2 hours. How far in 5 hours?", r"\b450\b"),
    ("Sort these numbers: 9, 4, 7, 1.", r"1\D+4\D+7\D+9"),
    ("Reverse the word 'stone'. Only the word.", r"\benots\b"),
    ("Write a Python function is_even(n). Only code.", r"%\s*2|&\s*1"),
    ("Write a Python function that returns the largest of a list. Only code.", r"max|>"),
    ("How do I reset my password? One sentence.", "password"),
    ("Translate 'good morning' into French. Only the translation.", "bonjour"),
)
"""Twenty of different kinds, each with a pattern over a right answer (any case)."""

# What a team can write on day one. Training a policy from traces is what replaces it.
POLICY = RulesPolicy(
    [
        (r"function|python|code", "large", "asks for code"),
        (r"\d.*\d.*(%|how many|how far|left|divisor)|(%|how many|how far|divisor).*\d", "large",
         "several steps"),
        (r"sort|reverse|\d+ \* \d+", "large", "symbol work"),
    ],
    otherwise="small",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class DemoAnswer:
    """One answered question. ``cost_usd`` is None where unknown."""

    route: str
    reason: str
    usage: TokenUsage | None
    cost_usd: Decimal | None
    seconds: float
    right: bool


def run(folder: Path, *, usd_per_hour: float = DEFAULT_USD_PER_HOUR, **options: Any) -> None:
    """Ask the questions twice and print both; traces go to ``folder/traces.db``. ``options``
    are those of :func:`.pool.local_pool`.

    Raises:
        LocalModelError: weights or a server could not be had.
    """
    console = Console()
    folder.mkdir(parents=True, exist_ok=True)
    store = folder / "traces.db"
    console.print("Starting two models behind llama.cpp's server on this machine ...")
    with local_pool(usd_per_hour=usd_per_hour, max_output_tokens=OUTPUT_TOKENS, **options) as local:
        for card in local.config["models"]:
            card["params"] = {"temperature": 0, "max_tokens": OUTPUT_TOKENS}
        (folder / "pool.yaml").write_text(local.to_yaml(), encoding="utf-8")
        pool = ModelPool.from_yaml(folder / "pool.yaml")
        _show_pool(console, pool, usd_per_hour)
        large = pool["large"]
        assert large.effective_price is not None
        price = large.effective_price

        def by_model(message: AIMessage) -> tuple[str, str, Decimal | None]:
            usage = usage_of(message)
            return "large", "the app's only model", None if usage is None else price.cost(usage)

        console.print("\n[bold]Without routing[/]: every question to the largest model")
        before = _ask(support_app.build(build_chat_model(large)), by_model, console)

        console.print("\n[bold]With XRouterNode[/]: the app changes in two lines")
        console.print(difference(), markup=False, highlight=False, soft_wrap=True)
        with Recorder(store, project="demo") as recorder:
            app = support_app_routed.build(pool, policy=POLICY, traces=recorder)
            after = _ask(app, _by_record, console)
    _show(console, after)
    _show_totals(console, before, after)
    console.print(
        f"\nEvery request left a trace in [bold]{store}[/]:\n"
        f"  xrouter traces list --store {store}\n"
        f"  xrouter traces show ID --store {store}\n"
        f"The pool is in [bold]{folder / 'pool.yaml'}[/].",
        highlight=False,
    )


def _by_record(message: AIMessage) -> tuple[str, str, Decimal | None]:
    record = message.response_metadata["xrouter"]
    cost = record["cost_usd"]
    return record["route"], record["reason"], None if cost is None else Decimal(cost)


def _ask(
    app: Any, read: Callable[[AIMessage], tuple[str, str, Decimal | None]], console: Console
) -> list[DemoAnswer]:
    outcomes = []
    with console.status("") as status:
        for number, (question, pattern) in enumerate(QUESTIONS, start=1):
            status.update(f"question {number} of {len(QUESTIONS)}")
            started = time.perf_counter()
            message = app.invoke({"messages": [HumanMessage(question)]})["messages"][-1]
            seconds = time.perf_counter() - started
            right = re.search(pattern, str(message.text), re.IGNORECASE | re.DOTALL) is not None
            usage = usage_of(message)
            route, reason, cost = read(message)
            outcomes.append(DemoAnswer(route, reason, usage, cost, seconds, right))
    return outcomes


def _show_pool(console: Console, pool: ModelPool, usd_per_hour: float) -> None:
    for card in pool:
        price = card.effective_price
        assert price is not None
        console.print(
            f"  {card.name}: {card.model_name}, {price.input:.3f} in / {price.output:.3f} out USD "
            f"per million tokens (measured speed at {usd_per_hour:g} USD per machine-hour)",
            highlight=False,
        )


def difference() -> str:
    """The changed lines between the app without and with routing."""
    old, new = (inspect.getsource(module.build) for module in (support_app, support_app_routed))
    lines = difflib.unified_diff(old.splitlines(), new.splitlines(), lineterm="", n=0)
    changed = [line for line in lines if line[:1] in "+-" and line[:3] not in ("+++", "---")]
    return "\n".join(["  +from xrouter_lg import XRouterNode", *(f"  {line}" for line in changed)])


def _show(console: Console, outcomes: Sequence[DemoAnswer]) -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column("question", max_width=24, no_wrap=True)
    table.add_column("route", no_wrap=True)
    table.add_column("why", max_width=16, no_wrap=True)
    for name in ("in", "out", "USD", "ms"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("right")
    for (question, _), outcome in zip(QUESTIONS, outcomes, strict=True):
        table.add_row(
            question,
            outcome.route,
            outcome.reason,
            "?" if outcome.usage is None else str(outcome.usage.input_tokens),
            "?" if outcome.usage is None else str(outcome.usage.output_tokens),
            "?" if outcome.cost_usd is None else f"{outcome.cost_usd:.7f}",
            f"{outcome.seconds * 1e3:.0f}",
            "yes" if outcome.right else "no",
        )
    console.print(table)


def _show_totals(
    console: Console, before: Sequence[DemoAnswer], after: Sequence[DemoAnswer]
) -> None:
    table = Table(title="Totals", title_justify="left", box=None)
    table.add_column("", no_wrap=True)
    for name in ("requests", "right", "tokens", "USD", "seconds", "to small"):
        table.add_column(name, justify="right")
    for name, outcomes in (("always large", before), ("routed", after)):
        known = [o.cost_usd for o in outcomes if o.cost_usd is not None]
        unknown = len(outcomes) - len(known)
        table.add_row(
            name,
            str(len(outcomes)),
            str(sum(o.right for o in outcomes)),
            str(sum(o.usage.input_tokens + o.usage.output_tokens for o in outcomes if o.usage)),
            f"{sum(known):.6f}" + (f" + {unknown} unknown" if unknown else ""),
            f"{sum(o.seconds for o in outcomes):.1f}",
            f"{sum(o.route == 'small' for o in outcomes) / len(outcomes):.0%}",
        )
    console.print(table)
