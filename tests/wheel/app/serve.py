"""A provider with two models: `small` can add, `large` knows capitals as well. Prints its URL."""

from __future__ import annotations

import re
import sys
from typing import Any

from xrouter_lg.testing import FakeModel, FakeOpenAIServer


def answer(question: str) -> str:
    """What is right, as a user would check it."""
    if found := re.search(r"(\d+) plus (\d+)", question):
        return str(int(found[1]) + int(found[2]))
    return "City of " + question.rpartition(" ")[2].rstrip("?")


def large(body: dict[str, Any]) -> str:
    return answer(body["messages"][-1]["content"])


def small(body: dict[str, Any]) -> str:
    question = body["messages"][-1]["content"]
    return answer(question) if "plus" in question else "I wonder."


if __name__ == "__main__":
    models = [FakeModel(name="small", reply=small), FakeModel(name="large", reply=large)]
    with FakeOpenAIServer(models) as server:
        print(server.base_url, flush=True)
        sys.stdin.read()  # until whoever started it closes the pipe
