"""What others build on: names, signatures, and what an import costs."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

import xrouter_lg

ROOT = Path(__file__).parents[2]

NAMES = [
    "Action",
    "BasePolicy",
    "Budget",
    "ChatXRouter",
    "Exploration",
    "ModelCard",
    "ModelPool",
    "Policy",
    "Price",
    "PromptedPolicy",
    "Proposal",
    "Recorder",
    "RouteRecord",
    "RouteRequest",
    "Router",
    "TraceStore",
    "XRouterMiddleware",
    "XRouterNode",
    "add_router",
    "build_router_graph",
]

PARAMETERS = {
    "Action": "kind card hint temperature max_tokens call_id text",
    "BasePolicy.propose": "self request candidates",
    "Budget": "per_request_usd on_exceeded limits store unpriced_usd when_down",
    "ChatXRouter.bind_tools": "self tools tool_choice parallel_tool_calls options",
    "ChatXRouter.with_structured_output": "self schema include_raw options",
    "Exploration": "rate share_of_spend floor",
    "ModelCard": "name model base_url api_key_env price context_window max_output_tokens "
    "capabilities description timeout_s max_retries params serves",
    "ModelPool": "cards default on_truncated budget hedge_after_s source",
    "ModelPool.from_yaml": "path reload",
    "Policy.propose": "self request candidates",
    "Price": "input output cached_input cache_write reasoning cache_write_1h input_audio "
    "input_image output_audio output_image request web_search source file_search "
    "code_execution image_tool_input image_tool_output input_audio_hour",
    "PromptedPolicy": "model price direct_answers timeout_s max_output_tokens",
    "Proposal": "probabilities actions propensity reason quality message prompt_hash token_ids "
    "explore cost_usd",
    "Router": "pool policy cost_weight max_turns budget exploration workers",
    "Router.decide": "self request pool",
    "XRouterMiddleware": "pool per options",
    "XRouterNode": "pool policy cost_weight max_turns budget messages_key output_key traces "
    "exploration",
    "XRouterNode.bind_tools": "self tools options",
    "add_router": "builder router name then policy max_turns messages_key output_key prefix tools "
    "traces",
    "build_router_graph": "router policy max_turns tools",
}


def test_the_public_names_are_these() -> None:
    assert xrouter_lg.__all__ == NAMES


def test_there_are_at_most_twenty() -> None:
    assert len(xrouter_lg.__all__) <= 20


@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    assert inspect.getdoc(getattr(xrouter_lg, name))


def test_dir_tells_the_public_names() -> None:
    assert set(NAMES) <= set(dir(xrouter_lg))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = xrouter_lg.nothing  # type: ignore[attr-defined]


@pytest.mark.parametrize(("path", "expected"), PARAMETERS.items(), ids=PARAMETERS)
def test_parameters_keep_their_names_and_order(path: str, expected: str) -> None:
    target: Any = xrouter_lg
    for part in path.split("."):
        target = getattr(target, part)
    assert list(inspect.signature(target).parameters) == expected.split()


def test_options_of_the_node_are_keyword_only_and_optional() -> None:
    first, *rest = inspect.signature(xrouter_lg.XRouterNode).parameters.values()
    assert all(p.kind is p.KEYWORD_ONLY and p.default is not p.empty for p in rest)
    assert len(rest) <= 8
    assert first.default is first.empty


def python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        cwd=ROOT,
    )
    return done.stdout.strip()


def loaded(code: str) -> set[str]:
    shown = python(f"{code}\nimport sys, json\nprint(json.dumps(sorted(sys.modules)))")
    return {name.partition(".")[0] for name in json.loads(shown.splitlines()[-1])}


HEAVY = {"torch", "transformers", "trl", "fastapi", "datasets", "vllm", "numpy", "polars"}
LATE = {"langchain_openai", "langgraph", "langchain", "openai", "sqlalchemy", "genai_prices"}


def test_a_bare_import_loads_nothing_that_it_does_not_need() -> None:
    assert not loaded("import xrouter_lg") & (HEAVY | LATE)


def test_a_node_in_use_loads_nothing_that_only_an_extra_brings() -> None:
    code = """
from xrouter_lg import ModelCard, ModelPool, XRouterNode
XRouterNode(ModelPool([ModelCard(name="a", model="a", base_url="http://127.0.0.1:1/v1")]))
"""
    assert not loaded(code) & (HEAVY - {"numpy"})


def test_an_import_opens_no_connection_and_starts_no_thread() -> None:
    assert (
        python(
            """
            import socket, threading
            def refuse(*args, **kwargs):
                raise SystemExit("a socket was opened")
            socket.socket.connect = refuse
            from xrouter_lg import *
            print(threading.active_count())
            """
        )
        == "1"
    )


def test_a_bare_import_is_a_small_share_of_importing_langgraph() -> None:
    """A ratio, taken three times in one process each, so that a busy machine changes nothing."""
    code = """
    import time
    begin = time.perf_counter()
    import {0}
    print(time.perf_counter() - begin)
    """
    ours = min(float(python(code.format("xrouter_lg"))) for _ in range(3))
    theirs = min(float(python(code.format("langgraph.graph"))) for _ in range(3))
    assert ours < 0.2 * theirs


def test_importing_the_node_costs_less_than_langgraph_did() -> None:
    code = """
    import time
    begin = time.perf_counter()
    import langgraph.graph
    middle = time.perf_counter()
    import xrouter_lg.graph.node
    print((time.perf_counter() - middle) / (middle - begin))
    """
    assert min(float(python(code)) for _ in range(3)) < 1.0


def test_the_package_is_marked_as_typed() -> None:
    assert (ROOT / "xrouter_lg" / "py.typed").exists()
