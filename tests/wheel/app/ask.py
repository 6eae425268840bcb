"""A routed app: `ask.py POLICY FIRST COUNT [STORE]` asks questions, prints their routes as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from langgraph.graph import START, MessagesState, StateGraph
from serve import answer

from xrouter_lg import ModelPool, XRouterNode


def question(number: int) -> tuple[str, str]:
    """A task and what is asked; every other one is a sum."""
    if number % 2:
        return "geography", f"Which city is the capital and the seat of government of land{number}?"
    return "sums", f"Please tell me how much is {number} plus {number * 7}"


def main(policy: str, first: int, count: int, store: str | None = None) -> None:
    node = XRouterNode(
        ModelPool.from_yaml("pool.yaml"), policy=policy, cost_weight=0.3, traces=store
    )
    builder = StateGraph(MessagesState)
    builder.add_node("model", node)
    builder.add_edge(START, "model")
    asked = [question(number) for number in range(first, first + count)]
    states = builder.compile().batch(
        [{"messages": [("user", text)]} for _, text in asked],
        [{"metadata": {"task": task}, "max_concurrency": 8} for task, _ in asked],
    )
    if node.recorder is not None:
        node.recorder.close()
    with Path("gold.jsonl").open("a") as gold:
        for _, text in asked:
            gold.write(json.dumps({"prompt": text, "reference": answer(text)}) + "\n")
    records = [state["messages"][-1].response_metadata["xrouter"] for state in states]
    print(json.dumps([[task, one["route"]] for (task, _), one in zip(asked, records, strict=True)]))


if __name__ == "__main__":
    policy, first, count, *store = sys.argv[1:]
    main(policy, int(first), int(count), *store)
