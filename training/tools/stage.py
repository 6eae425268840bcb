"""A run of the tools codec: warm start, GRPO with TRL's environment, an adapter to serve.

What comes out is a checkpoint of kind ``tools``: a plain PEFT adapter (or merged weights) with its
tokenizer and a manifest. Any server that speaks OpenAI's tool calls serves it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl.chat_template_utils import add_response_schema

from training.data.checks import check_template
from training.data.inputs import Plan
from training.data.lesson import lesson_of
from training.data.outcome_source import RecordedOutcomes
from training.data.reward import Reward
from training.grpo.episodes import EpisodeEnvironment, Episodes, in_rounds, whole_pool
from training.grpo.stage import note_of
from training.model.base import PACKAGES, identify, save_adapter, threads
from training.model.slots import trainable
from training.processes import is_main, main_first
from training.stage.callbacks import KeepBest, Log
from training.stage.plots import plot_grpo, plot_warm_start
from training.stage.progress import Progress
from training.stage.resume import Stage, digest_of, restore_weights, save_weights
from training.stage.supervise import supervise
from training.tools.environment import ToolEpisodes
from training.tools.imitation import ToolRow, tool_rows, train_tool_rows
from training.tools.rollout import route
from training.tools.trainer import train_tools
from training.warm_start.stage import loss_of
from training.warm_start.targets import soft_targets
from training.warm_start.trainer import steps_of
from xrouter_lg.arrays import Ints
from xrouter_lg.checkpoints.bases import materialise
from xrouter_lg.checkpoints.family_head import HEAD_FILE, FamilyHead
from xrouter_lg.checkpoints.folder import write_checkpoint
from xrouter_lg.checkpoints.manifest import Manifest
from xrouter_lg.checkpoints.parts import BaseIdentity, LanguageModel, ToolsStats
from xrouter_lg.errors import ConfigurationError
from xrouter_lg.fitting.family_head import head_of, head_stats
from xrouter_lg.fitting.provenance import provenance
from xrouter_lg.fitting.trained_on import reference_of
from xrouter_lg.pool.card import normalise_name
from xrouter_lg.pool.pool import ModelPool
from xrouter_lg.prompts import tools as codec
from xrouter_lg.value.features import Features

_JUDGED_AT = (0.1, 0.5, 2.0)
"""Cost weights that the held-out prompts are routed at."""


def run_tools(work: Plan, progress: Progress, *, resume: bool = False) -> Manifest | None:
    """All stages; the manifest of the checkpoint, or None in a process that helps the main one.

    Raises:
        ConfigurationError: the base's chat template knows no calls of tools.
        TrainingInterruptedError: a signal asked for the stop; what is done is saved.
    """
    config, use_cpu = work.config, work.config.trainer.use_cpu
    work.folder.mkdir(parents=True, exist_ok=True)
    with threads(config.base.threads):
        with main_first(use_cpu):
            folder = materialise(
                config.base.path, work.folder / "base", model_id=config.base.model_id
            )
        tokenizer = AutoTokenizer.from_pretrained(str(folder))
        check_template(tokenizer, config.base.path)
        model = AutoModelForCausalLM.from_pretrained(
            str(folder), dtype=getattr(torch, config.base.dtype)
        )
        identity = identify(folder, tokenizer)
        model = trainable(model, identity.layers, config.warm_start)
        if not use_cpu:
            model.to("cuda")
        task = _Task(work)
        key = digest_of(
            [
                identity.sha256,
                config.warm_start,
                config.data,
                config.tools,
                work.table.fingerprint(),
            ]
        )
        _warm_start(task, model, tokenizer, key, progress, resume=resume)
        if config.grpo.steps:
            _reinforce(task, model, tokenizer, key, progress, resume=resume)
        if not is_main():
            return None
        metrics = _judge(task, model, tokenizer, progress)
        return _write(work, model, tokenizer, *_manifest(task, identity, metrics))


class _Task:
    """The run's table as episodes of the tools codec."""

    def __init__(self, work: Plan) -> None:
        config, table = work.config, work.table
        pool = ModelPool.from_yaml(config.pool, reload=False)
        names = [normalise_name(name) for name in table.models]
        self.work, self.cards = work, [pool[name] for name in names]
        half = table.rows(work.train)
        self.usd_M = half.cost.mean(0)
        self.reward = Reward.of(config.reward, half.reference_cost())
        self.default = names.index(pool.default) if pool.default in names else half.best_fixed()
        texts = read_answers(work) if config.tools.turns > 1 else None
        self.source = RecordedOutcomes(table.score, table.cost, texts)
        self.must_not_call = read_marks(work)
        own = work.table.about.get("reference")
        self.own_answer: list[str | None] = (
            [None] * len(work.table) if own is None else own.tolist()
        )
        # Of each part by itself: a held-out outcome must not show in a target.
        self.target = np.full_like(table.score, np.nan)
        for rows in (work.fit, work.validation):
            families = [table.families[i] for i in rows]
            share = config.warm_start.outcome_share
            self.target[rows] = soft_targets(table.score[rows], families, share)
        self._environment = EpisodeEnvironment(self.source, self.reward, sampling=config.sampling)

    def sampled(self, rows: Ints, seed: int) -> ToolEpisodes:
        """An episode per row: candidates, prices and cost weight drawn."""
        rng = np.random.default_rng(seed)
        return self.of(self._environment.sample(len(rows), rng, rows))

    def of(self, episodes: Episodes) -> ToolEpisodes:
        config = self.work.config
        return ToolEpisodes(
            self.source,
            episodes,
            self.work.conversations,
            self.cards,
            self.reward,
            default=self.default,
            turns=config.tools.turns,
            direct=config.tools.direct,
            must_not_call_N=self.must_not_call,
            own_answer_N=self.own_answer,
            illegal_penalty=config.tools.illegal_penalty,
            router_usd_per_million=config.router_usd_per_million,
        )


def read_answers(work: Plan) -> list[list[str]]:
    """Recorded answers [N][M], in the order of the table.

    Raises:
        ConfigurationError: the table has none, or lacks some.
    """
    found = work.table.more.get("response")
    if found is None:
        raise ConfigurationError(
            f"tools.turns is {work.config.tools.turns}, which shows answers to the policy, and the "
            f"outcome table {work.config.outcomes!r} has no column 'response'; record answers, or "
            "set tools.turns=1"
        )
    lacking = np.argwhere([[text is None for text in row] for row in found])
    if len(lacking):
        row, column = lacking[0]
        raise ConfigurationError(
            f"{len(lacking)} outcomes have no recorded answer, such as "
            f"{work.table.models[column]!r} on {work.table.prompt_ids[row]!r}; leave those models "
            "out (data.models), or set tools.turns=1"
        )
    answers: list[list[str]] = found.tolist()
    return answers


def read_marks(work: Plan) -> list[bool]:
    """Which prompts the router should answer itself: column ``must_not_call`` of the prompts
    table, where it has one."""
    marks = work.table.about.get("must_not_call", [None] * len(work.table))
    return [bool(mark) for mark in marks]


def _warm_start(
    task: _Task, model: Any, tokenizer: Any, key: str, progress: Progress, *, resume: bool
) -> None:
    config, trainer = task.work.config.warm_start, task.work.config.trainer
    stage = Stage(task.work.folder, "warm_start", key)
    if stage.done:
        restore_weights(model, stage.weights)
        return

    def rows_of(rows: Ints, seed: int) -> list[ToolRow]:
        return tool_rows(
            task.sampled(rows, seed),
            tokenizer,
            task.target,
            task.usd_M,
            np.random.default_rng(seed),
            temperature=task.work.config.tools.imitation_temperature,
        )

    rows = rows_of(task.work.fit, config.seed)
    held = rows_of(task.work.validation, config.seed + 1)
    per_epoch, _ = steps_of(len(rows), config)
    best = KeepBest(
        lambda: {"log_loss": mean_loss(model, held)},
        lambda: save_weights(model, stage.weights),
        metric="log_loss",
        higher_is_better=False,
        every=-(-per_epoch // trainer.validations),
        patience=trainer.patience,
        file=stage.folder / "validation.json",
    )
    supervise(
        stage,
        best,
        partial(train_tool_rows, model, tokenizer, rows, config),
        trainer=trainer,
        resume=resume,
        progress=progress,
        note=loss_of,
        plot=plot_warm_start,
        restore=partial(restore_weights, model),
    )


def _reinforce(
    task: _Task, model: Any, tokenizer: Any, key: str, progress: Progress, *, resume: bool
) -> None:
    config = task.work.config
    settings = config.grpo
    stage = Stage(
        task.work.folder, "grpo", digest_of([key, settings, config.sampling, config.reward])
    )
    if stage.done:
        restore_weights(model, stage.weights)
        return
    rows = in_rounds(task.work.fit, settings.episodes, np.random.default_rng(settings.seed))
    held = task.sampled(task.work.validation[: config.tools.validation_prompts], settings.seed)

    def measure() -> Log:
        found = route(model, tokenizer, held, max_tokens=config.tools.max_completion_tokens)
        return {"utility": found.reward, **found.metrics}

    best = KeepBest(
        measure,
        lambda: save_weights(model, stage.weights),
        metric="utility",
        higher_is_better=True,
        every=settings.validate_every,
        patience=settings.patience,
        file=stage.folder / "validation.json",
        first=True,
    )
    episodes = task.sampled(rows, settings.seed)
    supervise(
        stage,
        best,
        partial(train_tools, model, tokenizer, episodes, settings, config.tools),
        trainer=config.trainer,
        resume=resume,
        progress=progress,
        note=note_of,
        plot=partial(plot_grpo, names=[card.name for card in task.cards]),
        restore=partial(restore_weights, model),
    )


@torch.no_grad()
def mean_loss(model: Any, rows: Sequence[ToolRow]) -> float:
    """Mean negative log-likelihood (nats) of the tokens that are to be learned."""
    training, device = model.training, next(model.parameters()).device
    model.eval()
    total, count = 0.0, 0
    for row in rows:
        learned = sum(label != -100 for label in row.labels[1:])
        ids = torch.tensor([row.input_ids], device=device)
        labels = torch.tensor([row.labels], device=device)
        total += float(model(input_ids=ids, labels=labels).loss) * learned
        count += learned
    model.train(training)
    return total / max(1, count)


def _judge(task: _Task, model: Any, tokenizer: Any, progress: Progress) -> list[dict[str, float]]:
    tools, found = task.work.config.tools, []
    rows = task.work.test[: tools.validation_prompts]
    for number, weight in enumerate(_JUDGED_AT):
        progress("judge", number, len(_JUDGED_AT), "")
        of = task.of(whole_pool(rows, len(task.cards), [weight]))
        routed = route(model, tokenizer, of, max_tokens=tools.max_completion_tokens)
        found.append({"cost_weight": weight, "reward": routed.reward, **routed.metrics})
    progress("judge", len(_JUDGED_AT), len(_JUDGED_AT), "")
    return found


def _manifest(
    task: _Task, base: BaseIdentity, metrics: list[dict[str, float]]
) -> tuple[Manifest, FamilyHead | None]:
    work, lesson = task.work, lesson_of(task.work)
    features, head = Features.of(lesson.train.prompts), head_of(lesson.train, lesson.cards)
    manifest = Manifest(
        kind="tools",
        language_model=LanguageModel(base, work.config.weights, codec.prompt_hash()),
        tools=ToolsStats(
            direct=work.config.tools.direct,
            turns=work.config.tools.turns,
            max_output_tokens=work.config.tools.max_completion_tokens,
        ),
        # What its prompt says of a card besides the price.
        cards=lesson.stats(lines=[card.description for card in task.cards]),
        c_ref_usd=lesson.c_ref_usd,
        best_fixed=lesson.best_fixed,
        data=lesson.data,
        family_head=None if head is None else head_stats(head, features, share=1.0),
        reference=reference_of(features, head),
        metrics={"held_out": metrics},
        config=lesson.config,
        **provenance(PACKAGES),
    )
    return manifest, head


def _write(
    work: Plan, model: Any, tokenizer: Any, manifest: Manifest, head: FamilyHead | None
) -> Manifest:
    def write_files(target: Path) -> None:
        if work.config.weights == "merged" and hasattr(model, "peft_config"):
            model.merge_and_unload().save_pretrained(target)
        else:
            save_adapter(model, target, manifest.model.base.model_id)
        # How a call reads goes with the tokenizer: who serves it in process needs no TRL.
        if getattr(tokenizer, "response_template", None) is None:
            add_response_schema(tokenizer)
        tokenizer.save_pretrained(target)
        if head is not None:
            save_file(head.arrays, target / HEAD_FILE)

    manifest.check()
    return write_checkpoint(work.folder / "checkpoint", manifest, write_files)
