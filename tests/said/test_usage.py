"""Every kind of token that a provider bills apart, by LangChain's count and its own."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import AIMessage

from xrouter_lg.said import RAW_USAGE_KEY, run_usage, told_usage_of, usage_of
from xrouter_lg.types import TokenUsage


def usage(count: dict[str, Any] | None = None, content: Any = "x", **meta: Any) -> TokenUsage:
    found = usage_of(
        {"type": "ai", "content": content, "usage_metadata": count, "response_metadata": meta}
    )
    assert found is not None
    return found


def langchain(inputs: int, outputs: int, ins: Any = None, outs: Any = None, total: int = 0) -> Any:
    return {
        "input_tokens": inputs,
        "output_tokens": outputs,
        "total_tokens": total or inputs + outputs,
        "input_token_details": ins or {},
        "output_token_details": outs or {},
    }


def test_cache_writes_of_an_hour_stand_apart_from_those_of_five_minutes() -> None:
    ins = {
        "cache_read": 5,
        "cache_creation": 0,
        "ephemeral_5m_input_tokens": 100,
        "ephemeral_1h_input_tokens": 300,
    }
    found = usage(langchain(1000, 10, ins))
    assert (found.cached_input_tokens, found.cache_write_tokens) == (5, 400)
    assert found.kinds == {"cache_write_1h_tokens": 300}


@pytest.mark.parametrize(
    ("prompt", "completion"),
    [(100, -5), (-1, 10), (2**70, 10), (100, 1e30), (float("nan"), 10)],
)
def test_half_a_count_is_none(prompt: float, completion: float) -> None:
    broken = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": 110}
    count = {"input_tokens": prompt, "output_tokens": completion, "total_tokens": 110}
    for metadata, meta in (
        (count, {}),
        (None, {"token_usage": broken}),
        (count, {"usage": broken}),
    ):
        message = {"type": "ai", "content": "x", "usage_metadata": metadata}
        assert usage_of({**message, "response_metadata": meta}) is None


def test_a_count_in_digits_is_one() -> None:
    told = {"prompt_tokens": "100", "completion_tokens": "10", "total_tokens": "110"}
    found = usage(None, token_usage=told)
    assert (found.input_tokens, found.output_tokens) == (100, 10)


@pytest.mark.parametrize("tier", ["flex", "priority"])
def test_a_service_tier_in_front_of_a_kind_changes_no_kind(tier: str) -> None:
    ins = {f"{tier}_cache_read": 900, tier: 100}
    found = usage(langchain(1000, 50, ins, {f"{tier}_reasoning": 40, tier: 10}))
    assert (found.cached_input_tokens, found.reasoning_tokens) == (900, 40)
    assert found.unknown == {}


def test_a_count_that_the_provider_keeps_and_langchain_drops_is_read() -> None:
    raw = {
        "prompt_tokens": 100,
        "completion_tokens": 20,
        "prompt_tokens_details": {"cached_tokens": 10, "image_tokens": 60},
        "completion_tokens_details": {"accepted_prediction_tokens": 7, "image_tokens": 4},
    }
    found = usage(langchain(100, 20, {"cache_read": 10}), token_usage=raw)
    assert found.kinds == {"input_image_tokens": 60, "output_image_tokens": 4}
    assert (found.cached_input_tokens, found.unknown) == (10, {})


def test_anthropics_own_count_leaves_the_cache_out_of_the_input() -> None:
    raw = {"input_tokens": 20, "cache_creation_input_tokens": 400, "cache_read_input_tokens": 80,
           "output_tokens": 9, "server_tool_use": {"web_search_requests": 2}}  # fmt: skip
    found = usage(None, usage=raw)
    assert (found.input_tokens, found.cache_write_tokens, found.cached_input_tokens) == (
        500,
        400,
        80,
    )
    assert found.kinds == {"web_searches": 2}


@pytest.mark.parametrize(
    "details",
    [
        {"cache_creation_tokens": 300,
         "cache_creation_token_details": {"ephemeral_5m_input_tokens": 100,
                                          "ephemeral_1h_input_tokens": 200}},
        {"cache_creation_input_tokens": 300, "cache_type": "ephemeral",
         "cache_creation": {"ephemeral_5m_input_tokens": 100, "ephemeral_1h_input_tokens": 200}},
    ],
)  # fmt: skip
def test_gateways_say_how_long_a_cache_is_written_inside_the_details(
    details: dict[str, Any],
) -> None:
    raw = {"prompt_tokens": 1000, "completion_tokens": 5, "prompt_tokens_details": details}
    found = usage(langchain(1000, 5), token_usage=raw)
    assert (found.input_tokens, found.cache_write_tokens) == (1000, 300)
    assert (found.kinds, found.unknown) == ({"cache_write_1h_tokens": 200}, {})


def test_cached_tokens_may_stand_beside_the_prompt() -> None:
    raw = {"prompt_tokens": 100, "completion_tokens": 5, "cached_tokens": 64}
    found = usage(langchain(100, 5), token_usage=raw)
    assert (found.input_tokens, found.cached_input_tokens) == (100, 64)


def test_deepseeks_cache_hits_are_cached_tokens() -> None:
    raw = {"prompt_tokens": 100, "completion_tokens": 5, "prompt_cache_hit_tokens": 64,
           "prompt_cache_miss_tokens": 36}  # fmt: skip
    assert usage(langchain(100, 5), token_usage=raw).cached_input_tokens == 64


def test_reasoning_beside_the_completion_is_part_of_the_output() -> None:
    # xAI: the total alone says that the completion does not hold it.
    assert usage(langchain(100, 10, None, {"reasoning": 500}, total=610)).output_tokens == 510
    assert usage(langchain(100, 700, None, {"reasoning": 500}, total=1300)).output_tokens == 1200
    assert usage(langchain(100, 510, None, {"reasoning": 500})).output_tokens == 510


def test_perplexity_counts_reasoning_and_citations_beside_the_completion() -> None:
    outs = {"reasoning": 30, "citation_tokens": 200}
    meta = {"model_provider": "perplexity", "num_search_queries": 3}
    found = usage(langchain(50, 100, None, outs), **meta)
    assert (found.output_tokens, found.reasoning_tokens) == (330, 30)
    assert found.kinds == {"output_citation_tokens": 200, "web_searches": 3}


def test_a_cache_larger_than_the_input_stands_beside_it() -> None:
    assert usage(langchain(20, 10, {"cache_read": 80})).input_tokens == 100


def test_a_kind_that_nobody_knows_is_named() -> None:
    found = usage(langchain(100, 20, {"hologram_tokens": 30}, {"smell": 500}))
    assert found.unknown == {"input_hologram": 30, "output_smell": 500}
    assert (found.input_tokens, found.output_tokens) == (100, 500)
    assert found.to_dict()["unknown"] == found.unknown


def test_a_stream_that_repeats_its_count_is_counted_once() -> None:
    chunks = [{"prompt_tokens": 1000, "completion_tokens": n} for n in (1, 2, 3)]
    found = usage(langchain(3000, 6), **{RAW_USAGE_KEY: chunks})
    assert (found.input_tokens, found.output_tokens) == (1000, 3)


def test_a_stream_that_counts_its_parts_is_summed() -> None:
    chunks = [{"prompt_tokens": 1000, "completion_tokens": 0},
              {"prompt_tokens": 0, "completion_tokens": 7}]  # fmt: skip
    found = usage(langchain(1000, 7), **{RAW_USAGE_KEY: chunks})
    assert (found.input_tokens, found.output_tokens) == (1000, 7)


@pytest.mark.parametrize(
    ("counts", "right"),
    [
        ([(713, 1)] * 5, (713, 5)),
        ([(713, 1), (713, 1), (713, 2), (713, 1)], (713, 5)),
        ([(0, 0), (1000, 2), (1000, 3)], (1000, 3)),
        ([(1000, 5), (1001, 10), (1003, 15)], (1003, 15)),
        ([(20, 9), (20, 9)], (20, 9)),
    ],
)
def test_a_prompt_that_a_stream_repeats_is_billed_once(
    counts: list[tuple[int, int]], right: tuple[int, int]
) -> None:
    chunks = [
        {
            "prompt_tokens": i,
            "completion_tokens": o,
            "prompt_tokens_details": {"cached_tokens": i // 2},
        }
        for i, o in counts
    ]
    found = usage(langchain(1, 1), **{RAW_USAGE_KEY: chunks})
    assert (found.input_tokens, found.output_tokens) == right
    assert found.cached_input_tokens == right[0] // 2


@pytest.mark.parametrize(
    ("prompt", "total", "right"), [(98_805, 103_925, 98_805), (10, 103_925, 98_805)]
)
def test_a_gateway_may_have_the_cache_in_the_prompt_or_beside_it(
    prompt: int, total: int, right: int
) -> None:
    count = {
        "prompt_tokens": prompt,
        "completion_tokens": 5_120,
        "total_tokens": total,
        "prompt_tokens_details": {"cached_tokens": 66_360},
        "cache_read_input_tokens": 66_360,
        "cache_creation_input_tokens": 32_435,
    }
    found = usage(langchain(prompt, 5_120, {"cache_read": 66_360}, total=total), token_usage=count)
    assert (found.input_tokens, found.output_tokens) == (right, 5_120)
    assert (found.cached_input_tokens, found.cache_write_tokens) == (66_360, 32_435)


def test_searches_are_counted_by_their_blocks_where_nobody_says_how_many() -> None:
    blocks = [
        {"type": "server_tool_use", "name": "web_search", "id": "1"},
        {"type": "server_tool_use", "name": "code_execution", "id": "2"},
        {"type": "text", "text": "x"},
    ]
    assert usage(langchain(10, 5), blocks).kinds == {"code_executions_5m": 1, "web_searches": 1}


@pytest.mark.parametrize("value", ["seven", None, True, -3, float("nan"), float("inf"), {}, 1e300])
def test_a_number_that_is_none_counts_as_nothing(value: Any) -> None:
    count = langchain(100, 20, {"cache_read": value}, {"reasoning": value})
    assert usage(count) == TokenUsage(100, 20)


def test_zeros_are_no_count() -> None:
    assert usage_of(AIMessage("x", usage_metadata=langchain(0, 0))) is None


@pytest.mark.parametrize(
    ("count", "content", "least"),
    [
        (langchain(0, 50), "x", TokenUsage(0, 50)),
        (langchain(0, 50), "", TokenUsage(0, 50)),
        (langchain(100, 0), "x", TokenUsage(100, 0)),
    ],
)
def test_half_a_count_is_none_but_the_least_that_was_used(
    count: dict[str, Any], content: str, least: TokenUsage
) -> None:
    message = AIMessage(content, usage_metadata=count)
    assert usage_of(message) is None
    assert told_usage_of(message) == least
    run = {"outputs": {"generations": [[{"message": {"content": content}}]]}}
    told = {"extra": {"metadata": {"usage_metadata": count}}}
    assert run_usage({**run, **told}) is None


def test_an_answer_of_nothing_took_no_output() -> None:
    assert usage_of(AIMessage("", usage_metadata=langchain(100, 0))) == TokenUsage(100, 0)


def test_a_prompt_that_was_all_in_the_cache_is_a_count() -> None:
    count = {"input_tokens": 0, "output_tokens": 5, "cache_read_input_tokens": 900}
    message = AIMessage("x", response_metadata={"usage": count, "model_provider": "anthropic"})
    assert usage_of(message) == TokenUsage(900, 5, cached_input_tokens=900)


def test_a_usage_is_the_same_after_it_was_written_down() -> None:
    found = usage(langchain(100, 20, {"hologram": 3, "audio": 5}))
    assert TokenUsage(**found.to_dict()) == found
    assert "kinds" not in TokenUsage(1, 2).to_dict()


def test_a_search_in_files_is_none_of_the_web() -> None:
    count = langchain(10, 10)
    blocks = [
        {"type": "file_search_call", "queries": ["a"]},
        {"type": "web_search_call", "action": {"type": "search", "query": "a"}},
        {"type": "web_search_call", "action": {"type": "open_page", "url": "https://a.example"}},
        {"type": "text", "text": "Paris."},
    ]
    assert usage(count, content=blocks).kinds == {"web_searches": 1, "storage_searches": 1}
