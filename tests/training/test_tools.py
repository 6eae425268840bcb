"""The tools codec: TRL's SFT and GRPO with an environment, in Qwen2.5's chat template."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import polars as pl
import pytest
import torch
from datasets import Dataset
from langchain_core.messages import AIMessage, HumanMessage
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl.trainer.grpo_config import GRPOConfig

from tests.support.tiny_chat_model import write_tiny_chat_base
from training.config.grpo import GrpoSettings
from training.config.run import BaseConfig, RunConfig
from training.config.tools import ToolsConfig
from training.config.trainer import TrainerConfig
from training.config.warm_start import WarmStartConfig
from training.data.outcome_source import RecordedOutcomes
from training.data.reward import Reward
from training.grpo.episodes import Episodes, whole_pool
from training.stage.callbacks import Report
from training.tools import stage
from training.tools.environment import ToolEpisodes, environment_class, result_of
from training.tools.imitation import tool_row, tool_rows, train_tool_rows
from training.tools.trainer import ToolsGRPOTrainer, arguments, train_tools
from training.train import main
from xrouter_lg import ModelCard, ModelPool
from xrouter_lg.checkpoints.aliases import promote
from xrouter_lg.checkpoints.folder import verify
from xrouter_lg.errors import ConfigurationError
from xrouter_lg.judge.run import judge_checkpoint
from xrouter_lg.judge.score import MIN_WEIGHTS
from xrouter_lg.judge.settings import JudgeSettings
from xrouter_lg.policies.chat import PromptedPolicy
from xrouter_lg.policies.following import FollowingPolicy
from xrouter_lg.policies.resolve import resolve_policy
from xrouter_lg.policies.tools.policy import ToolsPolicy
from xrouter_lg.policies.tools.torch_chat import _plain, most_probable
from xrouter_lg.prompts import tools as codec
from xrouter_lg.testing import FakeModel, FakeOpenAIServer
from xrouter_lg.types import RouteRequest

pytestmark = pytest.mark.train

CARDS = [
    ModelCard(name="small", model="openai:s", price={"input": 1, "output": 1}, description="sums"),
    ModelCard(name="large", model="openai:l", price={"input": 9, "output": 9}, description="all"),
]
TEXTS = [["?" if i % 2 else "yes", "yes"] for i in range(8)]
SCORE = np.array([[float(i % 2 == 0), 1.0] for i in range(8)])
COST = np.tile([1e-4, 1e-3], (8, 1))
SOURCE = RecordedOutcomes(SCORE, COST, TEXTS)
PROMPTS = [[HumanMessage(f"{'poem' if i % 2 else 'sum'} {i}")] for i in range(8)]


def episodes_of(count: int = 8, weight: float = 0.5, **options: Any) -> ToolEpisodes:
    return ToolEpisodes(
        SOURCE,
        whole_pool(np.arange(count) % 8, 2, [weight]),
        PROMPTS,
        CARDS,
        Reward(1e-3),
        **{"default": 1, **options},
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    opening, tools = episodes_of(turns=3).opening(0)
    texts = [message["content"] for message in opening] + [str(tool) for tool in tools]
    said = [("call_small", "{}"), ("call_large", "{}")]
    said += [("select_response", f'{{"call_id": "c{n}"}}') for n in (1, 2)]
    phrases = [f'\n{{"name": "{name}", "arguments": {arguments}}}\n' for name, arguments in said]
    return write_tiny_chat_base(tmp_path_factory.mktemp("chat"), texts * 4, phrases)


def load(folder: Path) -> tuple[Any, Any]:
    return (
        AutoModelForCausalLM.from_pretrained(folder),
        AutoTokenizer.from_pretrained(folder),
    )


def warm(folder: Path, of: ToolEpisodes, out: Path, epochs: int) -> tuple[Any, Any]:
    model, tokenizer = load(folder)
    rows = tool_rows(of, tokenizer, SCORE, COST.mean(0), np.random.default_rng(0))
    config = WarmStartConfig(
        recipe="plain", epochs=epochs, batch_size=4, learning_rate=1e-2, frozen_layers=0
    )
    train_tool_rows(model, tokenizer, rows, config, folder=out)
    return model, tokenizer


def test_the_opening_is_what_the_router_sends_when_it_serves(folder: Path) -> None:
    """Messages and schemas against a served request, byte by byte."""
    sent: list[dict[str, Any]] = []
    with FakeOpenAIServer([FakeModel(name="guide", reply="hello")]) as server:
        router = ModelCard(name="guide", model="guide", base_url=server.base_url)
        policy = PromptedPolicy(router, direct_answers=True)
        request = RouteRequest(messages=PROMPTS[3], cost_weight=0.5)
        asyncio.run(policy.propose(request, CARDS))
        sent = [found.body for found in server.requests]

    messages, tools = episodes_of(direct=True).opening(3)

    assert messages == [{"role": m["role"], "content": m["content"]} for m in sent[0]["messages"]]
    assert tools == sent[0]["tools"]
    _, tokenizer = load(folder)
    rendered = [
        tokenizer.apply_chat_template(said, tools=offered, tokenize=False)
        for said, offered in ((messages, tools), (sent[0]["messages"], sent[0]["tools"]))
    ]
    assert rendered[0] == rendered[1]


def test_calls_read_back_as_what_the_codec_parses() -> None:
    of = episodes_of()
    function = of.call(1)["tool_calls"][0]["function"]
    message = AIMessage("", tool_calls=[{**_args(function), "id": "c1"}])

    (action,) = codec.parse(message, RouteRequest(messages=PROMPTS[0]), CARDS, direct=False)

    assert (action.kind, action.card) == ("call", "large")


def _args(function: dict[str, Any]) -> dict[str, Any]:
    return {"name": function["name"], "args": function["arguments"]}


def rollout(of: ToolEpisodes, episode: int) -> Any:
    found = environment_class(of)()
    found.reset(prompt="ignored", episode=episode)
    return found


def test_a_call_shows_the_recorded_answer_and_pays_for_it() -> None:
    found = rollout(episodes_of(turns=3), 1)

    assert found.call_small(hint="be short") == "c1:\n?"
    assert found.call_large() == "c2:\nyes"
    assert found.select_response("c2") == "c2 is returned."

    result = result_of(found, [episodes_of().call(0)], 0)
    assert (result.card, result.score, result.calls, result.legal) == (1, 1.0, 2, True)
    assert result.reward == pytest.approx(1 - 0.5 * 1.1)


def test_without_a_selection_the_first_answer_counts_as_when_serving() -> None:
    found = rollout(episodes_of(), 1)
    found.call_small()
    found.call_large()

    assert result_of(found, [episodes_of().call(0)], 0).score == 0.0


def test_nothing_legal_falls_to_the_default_card_and_costs_a_penalty() -> None:
    of = episodes_of(router_usd_per_million=1.0)

    result = result_of(rollout(of, 1), [{"role": "assistant", "content": "hm"}], 100)

    assert (result.legal, result.card, result.score) == (False, 1, 1.0)
    assert result.reward == pytest.approx(1 - 0.5 * 1.1 - 0.5)


def test_small_talk_should_be_answered_and_a_question_should_not() -> None:
    marks = [True] + [False] * 7
    of = episodes_of(direct=True, must_not_call_N=marks)
    said = [{"role": "assistant", "content": "Hello!"}]

    assert result_of(rollout(of, 0), said, 0).reward == 1.0
    assert result_of(rollout(of, 1), said, 0).reward == 0.0
    called = rollout(of, 0)
    called.call_small()
    assert result_of(called, [of.call(0)], 0).score == 0.0


def test_an_unknown_outcome_is_no_zero() -> None:
    score = SCORE.copy()
    score[0, 1] = np.nan
    of = ToolEpisodes(
        RecordedOutcomes(score, COST, TEXTS),
        whole_pool(np.array([0]), 2, [0.5]),
        PROMPTS,
        CARDS,
        Reward(1e-3),
    )
    found = rollout(of, 0)
    found.call_large()

    assert np.isnan(result_of(found, [of.call(1)], 0).reward)


def test_a_card_that_is_no_candidate_can_not_be_called() -> None:
    of = ToolEpisodes(
        SOURCE,
        Episodes(np.array([0]), np.array([[1, -1]]), np.ones((1, 2)), np.array([0.5])),
        PROMPTS,
        CARDS,
        Reward(1e-3),
    )

    _, tools = of.opening(0)
    assert [tool["function"]["name"] for tool in tools] == ["call_large"]
    with pytest.raises(ValueError, match="no candidate"):
        rollout(of, 0).call_small()
    with pytest.raises(ValueError, match="no answer"):
        rollout(episodes_of(turns=3), 0).select_response("c1")


def test_only_what_the_router_says_is_learned(folder: Path) -> None:
    _, tokenizer = load(folder)
    of = episodes_of(turns=3)
    opening, tools = of.opening(1)
    turns = [
        of.call(0),
        {"role": "tool", "name": "call_small", "content": of.shown(1, 1, 0)},
        of.call(1),
        {"role": "tool", "name": "call_large", "content": of.shown(2, 1, 1)},
        of.select("c2"),
    ]

    row = tool_row(tokenizer, opening, tools, turns)

    learned = [i for i, label in zip(row.input_ids, row.labels, strict=True) if label != -100]
    text = tokenizer.decode(learned)
    assert text.count("<tool_call>") == 3
    assert "call_small" in text and "select_response" in text
    assert "<tool_response>" not in text and "Models:" not in text


def test_the_warm_start_answers_marked_prompts_as_their_reference_does(folder: Path) -> None:
    _, tokenizer = load(folder)
    marks = [True, True] + [False] * 6
    of = episodes_of(direct=True, must_not_call_N=marks, own_answer_N=["4", None, *["5"] * 6])

    rows = tool_rows(of, tokenizer, SCORE, COST.mean(0), np.random.default_rng(0))

    assert len(rows) == 7  # nobody has said what to answer to the second
    said = [tokenizer.decode([t for t in row.labels if t != -100]) for row in rows]
    assert ["<tool_call>" in text for text in said] == [False] + [True] * 6
    assert "4" in said[0]

    called = tool_rows(
        episodes_of(must_not_call_N=marks), tokenizer, SCORE, COST.mean(0), np.random.default_rng(0)
    )
    assert len(called) == 8  # a router that may not answer itself calls


def test_the_warm_start_draws_dearer_cards_at_lower_cost_weights(folder: Path) -> None:
    _, tokenizer = load(folder)
    share = {}
    for weight in (0.01, 2.0):
        of = episodes_of(80, weight)
        rows = tool_rows(of, tokenizer, SCORE, COST.mean(0), np.random.default_rng(0))
        calls = [tokenizer.decode([t for t in row.labels if t != -100]) for row in rows]
        share[weight] = np.mean(["call_large" in call for call in calls])

    assert share[0.01] > 0.6 > 0.1 > share[2.0]


def test_after_a_warm_start_grpo_trains_with_an_environment_factory(
    folder: Path, tmp_path: Path
) -> None:
    model, tokenizer = warm(folder, episodes_of(16), tmp_path / "warm", epochs=12)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    report = Report()

    train_tools(
        model,
        tokenizer,
        episodes_of(),
        GrpoSettings(steps=2, generations=4, prompts_per_step=2, learning_rate=1e-3),
        ToolsConfig(max_completion_tokens=12),
        folder=tmp_path / "grpo",
        callbacks=[report],
    )

    assert [entry["step"] for entry in report.log] == [1, 2]
    first = report.log[0]
    assert first["legal"] > 0.7  # an untrained one never says anything legal
    assert first["calls"] > 0.7
    assert first["tools/call_frequency"] >= first["calls"]
    assert first["share/small"] + first["share/large"] + first["share/router"] == pytest.approx(1.0)
    moved = [name for name, p in model.named_parameters() if not torch.equal(before[name], p)]
    assert len(moved) == len(before)


def test_several_turns_go_through_trls_own_tool_loop(folder: Path, tmp_path: Path) -> None:
    """The loop, its masks and the rewards are TRL's and ours; what the model says is scripted."""
    of = episodes_of(turns=3)
    model, tokenizer = load(folder)
    script = [
        [of.call(0), of.call(1), of.select("c2")],
        [of.call(1), of.select("c1"), {"role": "assistant", "content": "done"}],
    ]

    def ids_of(message: dict[str, Any]) -> list[int]:
        opening = [{"role": "user", "content": "x"}]
        asked = tokenizer.apply_chat_template(
            opening, add_generation_prompt=True, return_dict=False
        )
        whole = tokenizer.apply_chat_template([*opening, message], return_dict=False)
        # A model stops at the end of its turn; the line break behind it is the template's.
        return list(whole[len(asked) : whole.index(tokenizer.eos_token_id, len(asked)) + 1])

    class Scripted(ToolsGRPOTrainer):
        turn = 0

        def _generate_single_turn(self, prompt_ids: Any, *_: Any, **__: Any) -> Any:
            said = [ids_of(script[row % 2][self.turn]) for row in range(len(prompt_ids))]
            self.turn += 1
            return said, None

    report = Report()
    settings = GrpoSettings(steps=1, generations=2, prompts_per_step=1)
    tools = ToolsConfig(turns=3, max_completion_tokens=400)
    Scripted(
        of,
        model=model,
        args=GRPOConfig(**arguments(settings, TrainerConfig(device="cpu"), tools, tmp_path)),
        train_dataset=Dataset.from_list([{"prompt": of.opening(1)[0], "episode": 1}]),
        processing_class=tokenizer,
        callbacks=[report],
    ).train()

    (first,) = report.log
    assert first["legal"] == 1.0
    assert first["calls"] == 1.5
    assert first["share/large"] == 1.0
    assert first["score"] == 1.0
    assert first["reward"] == pytest.approx(1 - 0.5 * (1.1 + 1.0) / 2)
    # Tokens of answers are shown to the model, not said by it.
    spoken = [sum(map(len, map(ids_of, said))) for said in script]
    assert first["completions/mean_length"] == pytest.approx(np.mean(spoken))


def test_too_few_episodes_and_a_template_without_tools_are_refused(
    folder: Path, tmp_path: Path
) -> None:
    model, tokenizer = load(folder)
    settings = GrpoSettings(steps=20, generations=2)

    with pytest.raises(ValueError, match="need 80 episodes; there are 8"):
        train_tools(model, tokenizer, episodes_of(), settings, ToolsConfig(), folder=tmp_path)
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    with pytest.raises(ValueError, match="does not support tool calling"):
        train_tools(model, tokenizer, episodes_of(80), settings, ToolsConfig(), folder=tmp_path)


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("{% for m in messages %}{{ m.content }}{% endfor %}", "can't render tool calls"),
        (
            "{% for m in messages %}{{ m.content }}{{ m.tool_calls | string }}{% endfor %}",
            "is none whose calls TRL can read",
        ),
    ],
)
def test_a_base_whose_template_shows_only_once_it_is_fetched_is_refused_before_it_learns(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, template: str, problem: str
) -> None:
    """A GGUF file or a hub's name has no template to look at: it would learn to say nothing."""
    fetched = tmp_path / "fetched"
    shutil.copytree(folder, fetched)
    (fetched / "chat_template.jinja").write_text(template)
    monkeypatch.setattr(stage, "materialise", lambda *_, **__: fetched)
    config = RunConfig(codec="tools", base=BaseConfig(path="base.gguf", model_id="tiny-chat"))
    work = SimpleNamespace(config=config, folder=tmp_path / "run")

    with pytest.raises(ConfigurationError, match=problem):
        stage.run_tools(cast(Any, work), lambda *_: None)
    assert list((tmp_path / "run").iterdir()) == []


def test_a_run_of_the_tools_codec_ends_in_an_adapter(folder: Path, tmp_path: Path) -> None:
    outcomes = tmp_path / "outcomes"
    outcomes.mkdir()
    prompts, rows = [], []
    for i in range(30):
        key = {"source": "made", "task": "any", "prompt_id": str(i)}
        prompts.append({**key, "prompt": f"number {i}", "category": "x", "must_not_call": i == 0})
        for name, cost in (("small", 1e-4), ("large", 1e-3)):
            score = float(name == "large" or i % 2 == 0)
            rows.append({**key, "model": name, "score": score, "cost_usd": cost})
    pl.DataFrame(prompts).write_parquet(outcomes / "prompts.parquet")
    pl.DataFrame(rows).write_parquet(outcomes / "outcomes.parquet")
    pool = tmp_path / "pool.yaml"
    card = "  - {{name: {}, model: m, base_url: 'http://127.0.0.1:1/v1', price: {}}}\n"
    pool.write_text(
        "default: large\nmodels:\n"
        + card.format("small", "{input: 1, output: 1}")
        + card.format("large", "{input: 9, output: 9}")
    )
    file = tmp_path / "run.yaml"
    file.write_text(
        "codec: tools\nmin_prompts: 5\nbase: {dtype: float32, model_id: tiny-chat}\n"
        "warm_start: {recipe: plain, frozen_layers: 0, epochs: 1, batch_size: 4, lora_rank: 4}\n"
        "grpo: {steps: 1, prompts_per_step: 2, generations: 2}\n"
        "tools: {max_completion_tokens: 8, validation_prompts: 2}\n"
    )
    command = [
        "--config", str(file), f"outcomes={outcomes}", f"output={tmp_path / 'run'}",
        f"base.path={folder}", f"pool={pool}",
    ]  # fmt: skip

    assert main([*command, "warm_start.recipe=cached", "warm_start.frozen_layers=1"]) == 2
    assert main([*command, "pool="]) == 2
    assert main(command) == 0

    checkpoint = tmp_path / "run" / "checkpoint"
    manifest = verify(checkpoint, kind="tools")
    assert [card.name for card in manifest.cards] == ["large", "small"]
    assert manifest.model.prompt_hash == codec.prompt_hash()
    assert [entry["cost_weight"] for entry in manifest.metrics["held_out"]] == [0.1, 0.5, 2.0]
    adapter = json.loads((checkpoint / "adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == "tiny-chat"
    model = AutoModelForCausalLM.from_pretrained(folder)
    PeftModel.from_pretrained(model, str(checkpoint))
    assert main(command) == 0  # nothing is trained again
    assert verify(checkpoint).version == manifest.version

    # Served in process as it was measured: its greedy words are those of training's rollouts.
    root = tmp_path / "checkpoints"
    promote(checkpoint, root=root, force="a tiny model's first steps")
    cards = ModelPool.from_yaml(pool, reload=False)
    policy = resolve_policy(f"checkpoint:{root}/production?base={folder}", cards)
    assert isinstance(policy, FollowingPolicy)
    assert isinstance(policy.current, ToolsPolicy)
    policy.warm_up()
    model, tokenizer = policy.current._model._loaded  # type: ignore[union-attr]
    request = RouteRequest(messages=[HumanMessage("number 3")], cost_weight=0.1)
    candidates = [cards["large"], cards["small"]]
    messages, tools = codec.render(request, candidates, direct=False)
    ids = tokenizer.apply_chat_template(
        _plain(messages), tools=tools, add_generation_prompt=True, return_dict=False
    )
    said = most_probable(model, tokenizer, ids, 8)
    spoken = policy.current._model._answer(messages, {"tools": tools, "max_tokens": 8})
    assert spoken.generations[0].message.usage_metadata["output_tokens"] == len(said)
    policy.close()

    # Judged by what it says, one decision a prompt at each cost weight.
    judged = judge_checkpoint(
        JudgeSettings(
            checkpoint=checkpoint,
            outcomes=outcomes / "outcomes.parquet",
            prompts=outcomes / "prompts.parquet",
            base=folder,
            baselines=False,
            draws=20,
        )
    )
    assert judged.manifest.kind == "tools"
    assert judged.choices["cost_weight"].n_unique() == MIN_WEIGHTS
    assert judged.choices.height == MIN_WEIGHTS * len(judged.table)
    assert judged.choices["router_cost_usd"].min() > 0
    assert judged.to_json()["checkpoint"]["base"] == "tiny-chat"


@pytest.mark.parametrize(
    ("options", "said"),
    [({"turns": 2}, "1 or 3"), ({"turns": 0}, "greater than or equal to 1")],
)
def test_turns_that_decide_nothing_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ToolsConfig(**options)
