"""How many tokens a prompt has: a likely number and a bound."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    InvalidToolCall,
    SystemMessage,
    ToolMessage,
)
from langchain_core.messages.tool import ToolCall
from langchain_openai.chat_models.base import _convert_message_to_dict

from xrouter_lg import ModelCard
from xrouter_lg.calls.media import IMAGE_BOUND, IMAGE_TOKENS
from xrouter_lg.calls.tokens import (
    BOUND_PER_MESSAGE,
    BOUND_PREAMBLE,
    BOUND_TOOL_PROMPT,
    prompt_size,
)

TEXT = st.text(st.characters(), max_size=200)  # every character, lone surrogates among them
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 5000}}


def likely(*messages: BaseMessage, tools: Any = ()) -> int:
    return prompt_size(messages, tools).likely


def bound(*messages: BaseMessage, tools: Any = ()) -> int:
    return prompt_size(messages, tools).at_most


def wire_bytes(message: BaseMessage) -> int:
    """Bytes of all the text that a provider gets of a message: a byte-level tokenizer, whose
    vocabulary holds every single byte, never makes more tokens than that."""
    sent = _convert_message_to_dict(message)
    size = 0
    for key, value in sent.items():
        if key == "role":
            continue  # a marker of the chat template: BOUND_PER_MESSAGE
        for text in _texts(value):
            size += len(text.encode("utf-8", "surrogatepass"))
    return size


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for inner in value.values() for text in _texts(inner)]
    if isinstance(value, list):
        return [text for inner in value for text in _texts(inner)]
    return []


MESSAGES = st.one_of(
    TEXT.map(HumanMessage),
    TEXT.map(SystemMessage),
    TEXT.map(AIMessage),
    st.lists(TEXT, max_size=3).map(
        lambda parts: HumanMessage([{"type": "text", "text": part} for part in parts])
    ),
    st.builds(lambda text, name: HumanMessage(text, name=name), TEXT, TEXT),
    st.builds(lambda text, id_: ToolMessage(text, tool_call_id=id_), TEXT, TEXT),
    st.builds(
        lambda name, args, id_: AIMessage("", tool_calls=[ToolCall(name=name, args=args, id=id_)]),
        st.text(max_size=80),
        st.dictionaries(st.text(max_size=10), st.text(max_size=30) | st.integers(), max_size=3),
        st.text(max_size=40),
    ),
    st.builds(
        lambda args: AIMessage(
            "",
            invalid_tool_calls=[
                InvalidToolCall(type="invalid_tool_call", name="f", args=args, id="1", error=None)
            ],
        ),
        st.text(max_size=200),
    ),
)


@given(st.lists(MESSAGES, max_size=5))
def test_the_bound_holds_a_token_for_every_byte_that_is_sent(messages: list[BaseMessage]) -> None:
    sent = sum(wire_bytes(message) for message in messages)
    assert bound(*messages) >= sent + BOUND_PREAMBLE


@given(st.lists(MESSAGES, max_size=5))
def test_the_likely_number_is_never_above_the_bound(messages: list[BaseMessage]) -> None:
    size = prompt_size(messages)
    assert 0 <= size.likely <= size.at_most


@given(st.lists(MESSAGES, min_size=1, max_size=4), MESSAGES)
def test_a_further_message_never_lowers_either_number(
    messages: list[BaseMessage], more: BaseMessage
) -> None:
    before, after = prompt_size(messages), prompt_size([*messages, more])
    assert after.likely > before.likely
    assert after.at_most > before.at_most


def test_each_message_has_room_for_its_markers() -> None:
    assert bound(HumanMessage("")) - bound() == BOUND_PER_MESSAGE


def test_an_empty_prompt_still_has_the_templates_preamble() -> None:
    assert (likely(), bound()) == (0, BOUND_PREAMBLE)


def test_english_is_reckoned_at_four_characters_a_token() -> None:
    assert likely(HumanMessage("word" * 100)) == 104


@pytest.mark.parametrize("text", ["漢字", "한국어", "ひらがな", "Привет", "😀🎉"])
def test_a_character_of_another_script_is_reckoned_as_a_token(text: str) -> None:
    assert likely(HumanMessage(text * 100)) == len(text) * 100 + 4


def test_mixed_text_counts_each_script_in_its_own_way() -> None:
    assert likely(HumanMessage("abcd" * 10 + "漢" * 10)) == 10 + 10 + 4


@pytest.mark.parametrize(
    "text", ["\ud800", "a\udfffb", "\x00", "\u202e", "e\u0301" * 50, "👩\u200d👩\u200d👧" * 20]
)
def test_odd_unicode_is_counted_and_never_raises(text: str) -> None:
    assert bound(HumanMessage(text)) >= len(text.encode("utf-8", "surrogatepass"))


@pytest.mark.parametrize(
    "block",
    [
        IMAGE,
        {"type": "image", "base64": "A" * 5000, "mime_type": "image/png"},
        {"type": "input_image", "image_url": "https://x/y.png"},
    ],
)
def test_an_image_counts_by_its_picture_not_by_its_bytes(block: dict[str, Any]) -> None:
    message = HumanMessage([block])
    assert likely(message) == IMAGE_TOKENS + 4
    assert bound(message) == BOUND_PREAMBLE + BOUND_PER_MESSAGE + IMAGE_BOUND


def test_two_images_count_twice_beside_their_text() -> None:
    text = {"type": "text", "text": "x" * 40}
    assert likely(HumanMessage([text, IMAGE, IMAGE])) == 10 + 2 * IMAGE_TOKENS + 4


def test_images_are_found_in_any_message() -> None:
    size = prompt_size([SystemMessage("s"), HumanMessage([IMAGE])])
    assert (size.images, size.needs) == (1, frozenset({"vision"}))


@pytest.mark.parametrize("content", ["image_url", [{"type": "text", "text": "image"}], ["image"]])
def test_text_about_images_is_no_image(content: Any) -> None:
    assert prompt_size([HumanMessage(content)]).needs == frozenset()


def test_tool_calls_of_an_earlier_answer_are_counted() -> None:
    args = {"query": "漢" * 100}
    call = AIMessage("", tool_calls=[ToolCall(name="find", args=args, id="1")])
    assert bound(call) - bound(AIMessage("")) >= len(json.dumps(args, ensure_ascii=False).encode())


def test_tools_of_the_app_are_counted() -> None:
    tool = {"type": "function", "function": {"name": "find", "description": "d" * 400}}
    assert likely(HumanMessage("hi"), tools=[tool]) > 100
    grown = bound(HumanMessage("hi"), tools=[tool]) - bound(HumanMessage("hi"))
    assert grown >= len(json.dumps(tool)) + BOUND_PER_MESSAGE + BOUND_TOOL_PROMPT


def test_a_block_of_an_unknown_kind_is_counted_whole() -> None:
    block = {"type": "hologram", "layers": [{"note": "A" * 1000}]}
    assert bound(HumanMessage([block])) >= 1000


def test_thoughts_that_are_sent_again_are_counted() -> None:
    thought = AIMessage("x", additional_kwargs={"reasoning_content": "r" * 20_000})
    assert bound(thought) - bound(AIMessage("x")) >= 20_000


def test_a_picture_in_a_tools_result_is_a_picture() -> None:
    source = {"type": "url", "url": "http://x.org/i.png"}
    result = ToolMessage([{"type": "image", "source": source}], tool_call_id="1")
    nested = HumanMessage([{"type": "tool_result", "content": result.content}])
    assert prompt_size([result]).needs == prompt_size([nested]).needs == {"vision"}


@pytest.mark.parametrize(
    ("model", "most"), [("gpt-4o-mini", 48_169), ("gpt-4o", 1_445), ("who-knows", 48_169)]
)
def test_an_image_is_bounded_by_what_the_model_counts(model: str, most: int) -> None:
    card = ModelCard(name="a", model=model, base_url="http://127.0.0.1:1/v1", api_key_env=None)
    text, both = (prompt_size([HumanMessage(c)]) for c in ([], [IMAGE]))
    assert both.bound_for(card) - text.bound_for(card) == most


def test_media_are_bounded_by_the_cards_window() -> None:
    file = HumanMessage([{"type": "file", "file": {"file_id": "file-1"}}])
    card = ModelCard(name="a", model="m", base_url="http://127.0.0.1:1/v1", context_window=8_000)
    assert prompt_size([file]).at_most > 1_000_000
    assert prompt_size([file]).bound_for(card) == 8_000


def test_a_spoken_answer_is_no_text() -> None:
    spoken = {"id": "audio_1", "data": "A" * 900_000, "transcript": "Paris."}
    said = AIMessage("", additional_kwargs={"audio": spoken})
    size = prompt_size([said])
    assert size.likely < 10_000
    assert not size.needs


def test_pictures_are_found_wherever_they_stand() -> None:
    data = "A" * 400_000
    url = f"data:image/png;base64,{data}"
    resource = {"uri": "file:///a.png", "mimeType": "image/png", "blob": data}
    results = [
        {"type": "computer_screenshot", "image_url": url},
        {"type": "custom", "shown": url},
        {"type": "resource", "resource": resource},
    ]
    for result in results:
        size = prompt_size([ToolMessage([result], tool_call_id="c")])
        assert (size.images, size.needs) == (1, frozenset({"vision"}))
        assert size.likely < 2 * IMAGE_TOKENS
    made = {"type": "image_generation_call", "id": "i", "result": data}
    kept = AIMessage("x", additional_kwargs={"tool_outputs": [made]})
    assert prompt_size([kept]).likely < 2 * IMAGE_TOKENS


def test_base64_of_a_kind_that_nobody_knows_is_no_text() -> None:
    data = "A" * 400_000
    for block in ({"type": "hologram", "data": data}, {"type": "thing", "x": {"y": {"z": data}}}):
        size = prompt_size([HumanMessage([block])])
        assert size.likely < 20_000
        assert 400_000 <= size.at_most < 401_000
    told = {"type": "thing", "note": "a word " * 1_000}
    assert prompt_size([HumanMessage([told])]).likely > 1_500


def test_a_search_in_files_is_no_file() -> None:
    search = {"type": "file_search_call", "id": "fs_1", "queries": ["q"], "results": None}
    size = prompt_size([AIMessage([search, {"type": "text", "text": "x"}])])
    assert not size.needs
    assert size.at_most < 1_000
