"""GRPO of the tools codec: TRL's trainer with an ``environment_factory``.

``environment_factory`` is experimental in TRL 1.16; all we use of it is in this module.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from training.config.grpo import GrpoSettings
from training.config.tools import ToolsConfig
from training.config.trainer import TrainerConfig
from training.grpo.episodes import whole_pool
from training.grpo.trainer import shared_arguments
from training.grpo.turns import mean_known
from training.stage.callbacks import resumed
from training.tools.environment import (
    Rollout,
    RolloutResult,
    ToolEpisodes,
    environment_class,
    result_of,
)


class ToolsGRPOTrainer(GRPOTrainer):
    """Rows of the dataset have a ``prompt`` (messages) and the number of an ``episode``."""

    def __init__(self, of: ToolEpisodes, **options: Any) -> None:
        self._of = of
        self._prompt_tokens: dict[int, int] = {}
        self._batch: list[int] = []
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*environment_factory.*experimental.*")
            super().__init__(
                reward_funcs=self._reward, environment_factory=environment_class(of), **options
            )
        # TRL would write schemas of its own out of the methods; the router serves with these.
        everyone = ToolEpisodes(
            **{**vars(of), "episodes": whole_pool(np.array([0]), len(of.cards), [0.0])}
        )
        self._env_tools[None] = everyone.opening(0)[1]
        self.remove_callback(PrinterCallback)

    def _reward(
        self,
        completions: Sequence[Sequence[Mapping[str, Any]]],
        completion_ids: Sequence[Sequence[int]],
        environments: Sequence[Rollout],
        episode: Sequence[int],
        log_metric: Callable[[str, float], None],
        **_: Any,
    ) -> list[float | None]:
        results = [
            result_of(rollout, [dict(m) for m in said], self._prompt_tokens[number] + len(ids))
            for rollout, said, ids, number in zip(
                environments, completions, completion_ids, episode, strict=True
            )
        ]
        for name, value in metrics_of(results, [card.name for card in self._of.cards]).items():
            log_metric(name, value)
        return [None if np.isnan(result.reward) else result.reward for result in results]

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self._batch = [int(row["episode"]) for row in inputs]
        output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        return output

    def _tokenize_prompts(
        self, prompts: list[list[dict[str, Any]]]
    ) -> tuple[list[list[int]], None, dict[str, Any]]:
        """Each prompt with the tools of its own candidates."""
        found = []
        tokenizer: Any = self.processing_class
        for episode, prompt in zip(self._batch, prompts, strict=True):
            ids: list[int] = tokenizer.apply_chat_template(
                prompt,
                tools=self._of.opening(episode)[1],
                chat_template=self.chat_template,
                add_generation_prompt=True,
                tokenize=True,
                return_dict=False,
            )
            self._prompt_tokens[episode] = len(ids)
            found.append(ids)
        return found, None, {}

    def _tool_call_loop(
        self,
        prompts: list[Any],
        prompt_ids: list[list[int]],
        completion_ids: list[list[int]],
        completions: list[list[dict[str, Any]]],
        logprobs: Any,
        images: Any,
        multimodal_fields: Any,
    ) -> Any:
        if self._of.turns > 1:
            return super()._tool_call_loop(  # type: ignore[no-untyped-call]
                prompts,
                prompt_ids,
                completion_ids,
                completions,
                logprobs,
                images,
                multimodal_fields,
            )
        # With one turn the called card's answer is the answer: TRL would have the model write a
        # reply to it, which nobody reads and which costs as much as the decision.
        made = failed = 0
        for place, said in enumerate(completions):
            for call in said[0].get("tool_calls") or ():
                made += 1
                function = call["function"]
                try:
                    self._sync_tool_dicts[place][function["name"]](**function["arguments"])
                except Exception:
                    failed += 1
        mask = [[1] * len(ids) for ids in completion_ids]
        return mask, completions, completion_ids, logprobs, made, failed, [[] for _ in prompts]


def metrics_of(results: Sequence[RolloutResult], names: Sequence[str]) -> dict[str, float]:
    """Means over a batch of rollouts."""
    cards = np.array([-1 if result.card is None else result.card for result in results])
    return {
        "score": mean_known(np.array([result.score for result in results])),
        "cost_usd": mean_known(np.array([result.cost_usd for result in results])),
        "legal": float(np.mean([result.legal for result in results])),
        "calls": float(np.mean([result.calls for result in results])),
        "share/router": float((cards < 0).mean()),
        **{f"share/{name}": float((cards == m).mean()) for m, name in enumerate(names)},
    }


def train_tools(
    model: Any,
    tokenizer: Any,
    of: ToolEpisodes,
    settings: GrpoSettings,
    tools: ToolsConfig,
    *,
    folder: Path,
    trainer: TrainerConfig | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    resume: bool = False,
) -> None:
    """Train ``model`` in place; an episode is played by one group.

    Raises:
        ValueError: fewer episodes than ``steps * prompts_per_step``, or a chat template that does
            not know tools.
    """
    how = trainer or TrainerConfig(device="cpu")
    settings.check_episodes(len(of))
    rows = [{"prompt": of.opening(e)[0], "episode": e} for e in range(settings.episodes)]
    ToolsGRPOTrainer(
        of,
        model=model,
        args=GRPOConfig(**arguments(settings, how, tools, folder)),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        callbacks=list(callbacks),
    ).train(resume_from_checkpoint=resumed(folder, resume))


def arguments(
    settings: GrpoSettings, how: TrainerConfig, tools: ToolsConfig, folder: Path
) -> dict[str, Any]:
    """Arguments of TRL's ``GRPOConfig``."""
    return {
        **shared_arguments(settings, how, folder),
        "max_completion_length": tools.max_completion_tokens,
        "max_tool_calling_iterations": max(1, tools.turns - 1),
        "temperature": tools.sampling_temperature,
        **tools.vllm_arguments(),
    }
