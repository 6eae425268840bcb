"""How tools fit a question: what is read of a request, and what the family head learns of it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.support.heads import labelled_head
from xrouter_lg.checkpoints.family_head import HEAD_FILE, FamilyHead
from xrouter_lg.checkpoints.tool_fit import FEATURES, split_tools, stems, tool_features

THINGS = re.findall(
    r"\w+",
    "invoice ticket garden engine violin planet recipe museum bridge lawyer battery carpet "
    "castle doctor mortgage rocket salmon theatre umbrella volcano",
)


def tool(thing: str) -> dict[str, object]:
    properties = {f"{thing}_id": {"type": "integer", "description": f"Number of the {thing}."}}
    return {
        "name": f"get_{thing}",
        "description": f"Look up the price of one {thing}.",
        "parameters": {"type": "dict", "properties": properties, "required": [f"{thing}_id"]},
    }


def request(asked: str, offered: str) -> str:
    return f"Look up {asked} number 17 for us\n\nTools: {json.dumps(tool(offered))}"


PAIRS = [(a, b) for a in THINGS for b in THINGS if a != b]
FIT = [request(a, a) for a in THINGS for _ in range(6)]
MISFIT = [request(a, b) for a, b in PAIRS[::3]]
PLAIN = [f"Add {n} and {n + 3}" for n in range(40)]


def named(text: str) -> dict[str, float]:
    return dict(zip(FEATURES, tool_features(text, lambda stem: 1.0), strict=True))


@pytest.mark.parametrize(
    "tools",
    [tool("engine"), [tool("engine")], [{"type": "function", "function": tool("engine")}]],
)
def test_tools_are_found_in_each_usual_form(tools: object) -> None:
    text = f"How many? Use {{braces}} well.\nTools: {json.dumps(tools)} Thanks."
    question, found = split_tools(text)
    assert [item["name"] for item in found] == ["get_engine"]
    assert question == "How many? Use {braces} well. Thanks."


@pytest.mark.parametrize(
    "text", ["", "no tools here", '{"a": 1}', '[{"name": 3}]', '[{"name": "x"', "{" * 5000]
)
def test_what_is_no_tool_is_left_alone(text: str) -> None:
    assert split_tools(text) == (text, [])
    assert tool_features(text, lambda stem: 1.0) == [0.0] * len(FEATURES)


def test_odd_schemas_are_no_error() -> None:
    for parameters in (None, [], "x", {"properties": [], "required": "a"}, {"required": [1, {}]}):
        text = json.dumps({"name": "look_up", "description": None, "parameters": parameters})
        assert len(tool_features(f"look {text}", lambda stem: 1.0)) == len(FEATURES)


def test_numbers_worked_out_by_hand() -> None:
    found = named(request("engine", "engine"))
    assert stems("Look up engine number 17 for us") == ["look", "up", "engin", "numbe", "us"]
    assert found["name covered"] == pytest.approx(1 / 2)  # get, engin
    assert found["description covered"] == pytest.approx(3 / 5)  # look up price one engin
    assert found["name and description covered"] == pytest.approx(3 / 6)
    assert found["required names hit"] == 1.0
    assert found["no number for numeric parameters"] == 0.0
    assert named(request("engine", "violin"))["name covered"] == 0.0


def test_the_best_of_several_tools_counts() -> None:
    both = f"Look up engine 17 Tools: {json.dumps([tool('violin'), tool('engine')])}"
    assert named(both)["name and description covered"] == pytest.approx(3 / 6)
    assert named(both)["one tool"] == 0.0
    assert named(both)["mean covered over tools"] < 3 / 6


def test_a_head_sees_that_no_tool_fits_where_words_alone_can_not(tmp_path: Path) -> None:
    """Things asked for and tools offered are the same words in both kinds: only whether they meet
    differs, and on pairs never seen in training."""
    prompts = FIT + MISFIT + PLAIN
    families = ["fit"] * len(FIT) + ["misfit"] * len(MISFIT) + ["plain"] * len(PLAIN)
    score = np.array([[0.9, 0.1]] * len(FIT) + [[0.2, 0.9]] * len(MISFIT) + [[1, 1]] * len(PLAIN))
    head = labelled_head(prompts, families, score, np.full(score.shape, 1e-4), ["a", "b"])
    assert head is not None
    new = [request(a, b) for a, b in PAIRS[1::3]]
    assert np.mean([head.read(text).family == "misfit" for text in new]) > 0.95
    assert head.read(request("harbour", "harbour")).family == "fit"
    assert head.read("Add 91 and 94").family == "plain"
    save_file(head.arrays, tmp_path / HEAD_FILE)
    stored = FamilyHead.load(tmp_path / HEAD_FILE, head.families, head.cards)
    assert [stored.read(text) for text in new[:20]] == [head.read(text) for text in new[:20]]
    # The same head by its words and lengths alone.
    old = {k: v for k, v in head.arrays.items() if not k.startswith(("tool", "stem", "prompts"))}
    old["weight_F_P"] = old["weight_F_P"][:, : -len(FEATURES)]
    words = FamilyHead(old, head.families, head.cards)
    told = [words.read(text).family == "fit" for text in FIT]
    assert np.mean(told) < 0.5
    # Shaped as no request of training was: more tools than any, and hardly a word of question.
    odd = f"Go. Tools: {json.dumps([tool(thing) for thing in THINGS])}"
    assert head.read(odd).near == 0.0
    assert np.mean([head.read(text).near for text in prompts]) > 0.8
    fewer = {**head.arrays, "tool_mean_T": head.arrays["tool_mean_T"][:3].copy()}
    with pytest.raises(ValueError, match="fitted on 3 tool features"):
        FamilyHead(fewer, head.families, head.cards)
    narrow = {**head.arrays, "weight_F_P": head.arrays["weight_F_P"][:, :3].copy()}
    with pytest.raises(ValueError, match="fitted on 3 coordinates"):
        FamilyHead(narrow, head.families, head.cards)
