"""The stages of a training run. Each writes to the run folder and is skipped when it is done.

    plan        read table and base, check everything, split; nothing expensive before it passed
    features    activations of the frozen lower layers, once per prompt
    warm_start  LoRA on the upper layers; one adapter per epoch, the best on validation is kept
    grpo        TRL's GRPO on replayed outcomes, if asked for
    export      cost model, dial, figures on the held-out half, checkpoint

A stage's mark holds a digest of what it depends on, so a changed setting runs again exactly the
stages that it touches.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from langchain_core.messages import HumanMessage
from safetensors.torch import load_file, save_file

from training.base_model import Base, load_base, materialise, threads
from training.config import DataConfig, RunConfig
from training.export import (
    card_stats,
    dial_points,
    expected_of,
    export,
    fit_cost_model,
)
from training.family_head import fit_family_head, head_stats
from training.features import ActivationCache, build_cache
from training.grpo import train_grpo
from training.judge.curve import DIAL, Predictions, predicted_curve
from training.judge.metrics import Reference, evaluate
from training.judge.table import Floats, Ints, Paired, random_split, read_paired
from training.replay import ReplayEnvironment, Sampling
from training.reward import Reward
from training.warm_start import (
    SlotModel,
    Step,
    UpperHalf,
    measure_centre,
    prior_log_odds,
    slot_model,
    soft_targets,
    train_cached,
)
from xrouter_lg.checkpoint import Manifest
from xrouter_lg.errors import ConfigurationError
from xrouter_lg.pool import normalise_name
from xrouter_lg.prompts import slots

_VALIDATION_SHARE = 0.1
"""Share of the training half that the best epoch is chosen on."""


@dataclass(frozen=True)
class Plan:
    """What a run will work on; everything in it has been checked."""

    config: RunConfig
    folder: Path
    table: Paired
    train: Ints
    """Rows of the table learned from."""
    test: Ints
    """Rows held out."""
    lines: tuple[str, ...]
    questions: tuple[str, ...]

    @property
    def prefix(self) -> str:
        return slots.render_prefix(self.lines)

    def describe(self) -> str:
        """What ``--dry-run`` prints."""
        warm = self.config.warm_start
        characters = sum(map(len, self.questions))
        tokens = characters // 3
        return "\n".join(
            [
                f"outcomes     {self.config.outcomes}",
                f"prompts      {len(self.train)} to learn from, {len(self.test)} held out",
                f"models       {len(self.table.models)}: {', '.join(self.table.models)}",
                f"base         {self.config.base.path} ({self.config.base.dtype})",
                f"features     about {tokens:,} tokens, {tokens * 1152 / 1e6:,.0f} MB on disk",
                f"warm start   {warm.epochs} epochs of "
                f"{-(-len(self.train) // warm.batch_size)} steps, LoRA rank {warm.lora_rank}, "
                f"lower {warm.frozen_layers} layers frozen",
                f"run folder   {self.folder}",
            ]
        )


def plan(config: RunConfig) -> Plan:
    """Check a run and split its data.

    Raises:
        ConfigurationError: names the setting that can't work and what to give instead.
    """
    root = Path(config.outcomes)
    for name in ("outcomes.parquet", "prompts.parquet"):
        if not config.outcomes or not root.joinpath(name).is_file():
            raise ConfigurationError(
                f"outcomes is {config.outcomes!r}; it must be a folder with outcomes.parquet and "
                "prompts.parquet"
            )
    if not config.base.path:
        raise ConfigurationError(
            "base.path is empty; give a folder, a .gguf file or a model id, such as "
            "base.path=HuggingFaceTB/SmolLM2-135M-Instruct"
        )
    if config.base.path.endswith(".gguf") and not Path(config.base.path).is_file():
        raise ConfigurationError(f"base.path {config.base.path!r} does not exist")
    if not 0.0 < config.data.train_share < 1.0:
        raise ConfigurationError(f"data.train_share is {config.data.train_share!r}; not in (0, 1)")
    table = _read(root, config.data)
    if len(table.models) > len(slots.CARD_SLOTS):
        raise ConfigurationError(
            f"the table gives {len(table.models)} models; a checkpoint takes at most "
            f"{len(slots.CARD_SLOTS)}: name them in data.models"
        )
    half, _ = random_split(table, seed=config.data.split_seed, train_share=config.data.train_share)
    rows = {name: row for row, name in enumerate(table.prompt_ids)}
    train = np.array([rows[name] for name in half.prompt_ids], dtype=np.int64)
    test = np.setdiff1d(np.arange(len(table)), train)
    if len(train) < config.min_prompts or not len(test):
        raise ConfigurationError(
            f"{len(train)} prompts to learn from and {len(test)} held out; at least "
            f"{config.min_prompts} and 1 are needed (min_prompts)"
        )
    lines = card_lines(table.rows(train), config.data.strengths)
    questions = tuple(slots.render_question([HumanMessage(text)]) for text in table.prompts)
    return Plan(config, Path(config.output), table, train, test, lines, questions)


def card_lines(train: Paired, kinds: int) -> tuple[str, ...]:
    """What the prompt says of each model: its measured success on the most frequent tasks."""
    tasks = np.array([family.split("|")[1] for family in train.families])
    frequent = [str(task) for task, _ in collections.Counter(tasks).most_common(kinds)]
    return tuple(
        slots.card_line("", {t: float(train.score[tasks == t, m].mean()) for t in frequent})
        for m in range(len(train.models))
    )


Progress = Callable[[str, int, int, str], None]
"""Called with a stage, how much is done, how much there is, and a word on how it goes."""


def run(work: Plan, progress: Progress) -> Manifest:
    """All stages; the manifest of the checkpoint. What is done already is not done again."""
    work.folder.mkdir(parents=True, exist_ok=True)
    config = work.config
    with threads(config.base.threads):
        folder = materialise(config.base.path, work.folder / "base", model_id=config.base.model_id)
        base = load_base(folder, dtype=getattr(torch, config.base.dtype))
        cache = build_cache(
            base,
            work.prefix,
            work.questions,
            layers=config.warm_start.frozen_layers,
            folder=work.folder / "features",
            progress=lambda done, whole: progress("features", done, whole, ""),
        )
        slot = slot_model(base, prior_log_odds(work.table.score[work.train]), config.warm_start)
        warm_start(work, slot, cache, progress)
        if config.grpo.steps:
            reinforce(work, slot, base, cache, progress)
        return finish(work, slot, base, cache, progress)


def warm_start(work: Plan, slot: SlotModel, cache: ActivationCache, progress: Progress) -> None:
    """Train the adapter, or load the one that an earlier run with these settings left."""
    mark = work.folder / "warm_start.json"
    weights = work.folder / "warm_start.safetensors"
    key = _digest(work, cache)
    upper = UpperHalf(slot, cache)
    if mark.is_file() and json.loads(mark.read_text())["key"] == key:
        _restore(slot, load_file(weights))
        return
    measure_centre(upper, work.train, work.config.warm_start.seed)
    shuffled = np.random.default_rng(work.config.warm_start.seed).permutation(work.train)
    held = max(1, round(len(shuffled) * _VALIDATION_SHARE))
    validation, fit = shuffled[:held], shuffled[held:]
    targets = soft_targets(
        work.table.score[fit],
        [work.table.families[i] for i in fit],
        work.config.warm_start.outcome_share,
    )
    losses: list[float] = []

    def on_epoch(epoch: int) -> bool:
        losses.append(log_loss(upper.predict(validation), work.table.score[validation]))
        if losses[-1] == min(losses):
            save_file(_state(slot), weights)
        # Once it gets worse it overfits: more epochs cost time and quality.
        return losses[-1] == min(losses)

    def on_step(step: Step) -> None:
        progress("warm start", step.step, step.steps, f"loss {step.loss:.4f}")

    train_cached(upper, fit, targets, work.config.warm_start, on_step=on_step, on_epoch=on_epoch)
    _restore(slot, load_file(weights))
    mark.write_text(json.dumps({"key": key, "validation_log_loss": losses, "at": time.time()}))


def reinforce(
    work: Plan, slot: SlotModel, base: Base, cache: ActivationCache, progress: Progress
) -> None:
    """GRPO from where the warm start ended, or load what an earlier run left; TRL's log goes to
    ``grpo.json``.

    A prompt that occurs twice is learned from once: it has one cost weight.
    """
    config, table = work.config, work.table
    mark, weights = work.folder / "grpo.json", work.folder / "grpo.safetensors"
    key = f"{_digest(work, cache)} {json.dumps(dataclasses.asdict(config.grpo), sort_keys=True)}"
    if mark.is_file() and json.loads(mark.read_text())["key"] == key:
        _restore(slot, load_file(weights))
        return
    first = {work.questions[i]: int(i) for i in reversed(work.train)}
    rows = np.array(sorted(first.values()), dtype=np.int64)
    half = table.rows(work.train)
    reward = Reward(c_ref_usd=half.reference_cost())
    environment = ReplayEnvironment(
        table.score[rows], table.cost[rows], reward, sampling=Sampling(permute=False)
    )
    log = train_grpo(
        slot,
        base.tokenizer,
        work.prefix,
        [work.questions[i] for i in rows],
        environment,
        np.tile(half.cost.mean(0), (len(rows), 1)),
        reward.c_ref_usd,
        config.grpo,
        folder=work.folder / "grpo",
        on_log=lambda entry: progress(
            "grpo", int(entry["step"]), config.grpo.steps, f"reward {entry['reward']:.3f}"
        ),
    )
    save_file(_state(slot), weights)
    mark.write_text(json.dumps({"key": key, "log": log}))


def finish(
    work: Plan, slot: SlotModel, base: Base, cache: ActivationCache, progress: Progress
) -> Manifest:
    """Measure on the held-out half and write the checkpoint."""
    upper, table = UpperHalf(slot, cache), work.table
    train, test = table.rows(work.train), table.rows(work.test)
    progress("judge", 0, 2, "")
    z_train, z_test = upper.predict(work.train), upper.predict(work.test)
    progress("judge", 1, 2, "")
    size = np.array([len(prompt) / 4 for prompt in table.prompts])
    names = [normalise_name(name) for name in table.models]
    cost_model = fit_cost_model(z_train, size[work.train], train.cost)
    reference = Reference.of(train)
    head = None
    if work.config.family_head_share > 0:
        head = fit_family_head(train.prompts, train.families, train.score, train.cost, names)
    tokens = len(base.tokenizer.encode(work.prefix)) + float(np.mean(cache.lengths))
    router_cost = tokens * work.config.router_usd_per_million / 1e6
    manifest = Manifest(
        base=base.identity,
        cards=card_stats(
            names,
            work.lines,
            slot,
            train.cost.mean(0),
            _mean_output_tokens(work),
            [None] * len(names),
        ),
        c_ref_usd=reference.c_ref,
        best_fixed=names[reference.best_fixed],
        weights=work.config.weights,
        cost_model=cost_model,
        family_head=None
        if head is None
        else head_stats(head, train.prompts, share=work.config.family_head_share),
        data={
            "fingerprint": _table_digest(table),
            "train_prompts": len(train),
            "test_prompts": len(test),
            "split": "random",
            "split_seed": work.config.data.split_seed,
            "families": sorted(set(train.families)),
        },
        config=_public(work.config),
    )
    quality, ratio = expected_of(manifest, slot, z_test, test.prompts, size[work.test], head)
    expected = ratio * train.cost.mean(0)
    curve = predicted_curve(
        "checkpoint",
        Predictions(quality, expected),
        test,
        c_ref=reference.c_ref,
        router_cost=router_cost,
    )
    figures = evaluate(curve, test, reference)
    manifest = dataclasses.replace(
        manifest,
        dial=dial_points(quality, expected, test.score, test.cost, reference.c_ref, DIAL),
        metrics={
            "held_out_log_loss": log_loss(z_test, test.score),
            "aiq": dataclasses.asdict(figures.aiq),
            "gain_over_zero_router": dataclasses.asdict(figures.gain),
            "parity_share": dataclasses.asdict(figures.parity_share),
            "router_usd_per_request": router_cost,
        },
    )
    written = export(
        work.folder / "checkpoint", slot, base, manifest, weights=work.config.weights, head=head
    )
    progress("judge", 2, 2, "")
    return written


def log_loss(z_N_M: Floats, score_N_M: Floats) -> float:
    """Mean binary cross-entropy (nats) of success log-odds against recorded scores."""
    return float((np.logaddexp(0.0, z_N_M) - score_N_M * z_N_M).mean())


def _read(root: Path, data: DataConfig) -> Paired:
    try:
        return read_paired(
            root / "outcomes.parquet",
            root / "prompts.parquet",
            sources=data.sources or None,
            models=data.models or None,
            rename=dict(data.rename) or None,
        )
    except (ValueError, pl.exceptions.PolarsError) as error:
        raise ConfigurationError(f"the outcome table can't be used: {error}") from error


def _mean_output_tokens(work: Plan) -> Floats:
    """Mean output tokens per model over the training prompts; 0 where none are recorded."""
    data = work.config.data
    key = pl.concat_str(["source", "task", "prompt_id"], separator="|")
    wanted = [work.table.prompt_ids[i] for i in work.train]
    rows = pl.scan_parquet(Path(work.config.outcomes) / "outcomes.parquet")
    if "output_tokens" not in rows.collect_schema().names():
        return np.zeros(len(work.table.models))
    frame = (
        rows.with_columns(pl.col("model").replace(dict(data.rename)))
        .filter(key.is_in(wanted))
        .group_by("model")
        .agg(pl.col("output_tokens").mean().alias("mean"))
        .collect()
    )
    means = dict(zip(frame["model"], frame["mean"], strict=True))
    return np.array([float(means.get(model) or 0.0) for model in work.table.models])


def _state(slot: SlotModel) -> dict[str, torch.Tensor]:
    trained = {n: p.detach() for n, p in slot.model.named_parameters() if p.requires_grad}
    return {**trained, "centre": slot.centre_M}


def _restore(slot: SlotModel, state: Mapping[str, torch.Tensor]) -> None:
    with torch.no_grad():
        slot.centre_M.copy_(state["centre"])
        for name, parameter in slot.model.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(state[name])


def _digest(work: Plan, cache: ActivationCache) -> str:
    parts: list[Any] = [
        dataclasses.asdict(work.config.warm_start),
        dataclasses.asdict(work.config.data),
        work.config.base.dtype,
        cache.folder.name,
        _table_digest(work.table),
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _table_digest(table: Paired) -> str:
    digest = hashlib.sha256(json.dumps([table.prompt_ids, table.models]).encode())
    digest.update(np.ascontiguousarray(table.score).tobytes())
    digest.update(np.ascontiguousarray(table.cost).tobytes())
    return digest.hexdigest()[:16]


def _public(config: RunConfig) -> dict[str, Any]:
    """The config without this machine's paths."""
    data = dataclasses.asdict(config)
    data["outcomes"] = Path(config.outcomes).name
    data["output"] = Path(config.output).name
    data["base"]["path"] = Path(config.base.path).name
    # As it will be read back: tuples become lists.
    public: dict[str, Any] = json.loads(json.dumps(data))
    return public
