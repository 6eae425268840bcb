"""What can be known to go wrong before the first expensive step."""

from __future__ import annotations

import copy
import json
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.processes import process_count
from xrouter_lg.errors import ConfigurationError, XRouterError
from xrouter_lg.pool.card import normalise_name
from xrouter_lg.pool.pool import ModelPool
from xrouter_lg.prompts import slots

if TYPE_CHECKING:
    from training.config.run import RunConfig
    from xrouter_lg.outcomes.grid import OutcomeGrid


def check_settings(config: RunConfig) -> None:
    """Settings that exclude each other.

    Raises:
        ConfigurationError: names them and says what to change.
    """
    warm, trainer, grpo = config.warm_start, config.trainer, config.grpo
    if not 0.0 < config.data.train_share < 1.0:
        raise ConfigurationError(
            f"data.train_share is {config.data.train_share!r}; it must lie between 0 and 1, such "
            "as 0.8"
        )
    if config.data.pools != "same":
        _check_pools(config)
    if warm.method == "full" and config.weights == "adapter":
        raise ConfigurationError(
            "warm_start.method is 'full', which trains no adapter; set weights=merged"
        )
    if warm.method == "full" and config.base.dtype != "float32":
        raise ConfigurationError(
            "warm_start.method is 'full', whose small updates are lost in bfloat16 weights; set "
            "base.dtype=float32 (and trainer.mixed_precision=bf16 on a GPU)"
        )
    if trainer.gradient_checkpointing and warm.recipe == "cached":
        raise ConfigurationError(
            "trainer.gradient_checkpointing needs warm_start.recipe=plain: the cached recipe "
            "shares keys and values within a pass, which are not kept when it is recomputed"
        )
    if config.sampling.permute and warm.recipe == "cached":
        raise ConfigurationError(
            "sampling.permute needs warm_start.recipe=plain: cached activations hold one order of "
            "the candidates"
        )
    if config.codec == "tools":
        _check_tools(config)
    if config.codec == "cascade" and grpo.steps:
        raise ConfigurationError(
            "codec is 'cascade', whose plans follow from the answers' model by search: there is "
            "nothing for GRPO to train; set grpo.steps=0"
        )
    if config.live.budget_usd and (count := process_count()) > 1:
        raise ConfigurationError(
            f"live.budget_usd is set in a run of {count} processes, which would each spend it; "
            "run in one process, or set live.budget_usd=0"
        )
    trainer.per_device(warm.batch_size, "warm_start.batch_size")
    if grpo.steps:
        trainer.per_device(grpo.generations * grpo.prompts_per_step, "generations × prompts")


def _check_pools(config: RunConfig) -> None:
    """Groups of sources, and what learns from one pool only."""
    data = config.data
    if not isinstance(data.pools, str):
        named = [source for group in data.pools for source in group]
        if not all(data.pools) or len(set(named)) < len(named):
            raise ConfigurationError(
                f"data.pools is {[list(group) for group in data.pools]!r}; it must be groups of "
                "sources, each source in one of them"
            )
        if data.sources and set(data.sources) != set(named):
            odd = sorted(set(data.sources) ^ set(named))
            raise ConfigurationError(
                f"data.sources and the groups of data.pools differ in {', '.join(odd)}; leave "
                "data.sources out, the groups say it"
            )
    for wrong, what in (
        (config.codec != "slots", f"codec is {config.codec!r}"),
        (config.grpo.steps > 0, f"grpo.steps is {config.grpo.steps}"),
        (config.live.budget_usd > 0, f"live.budget_usd is {config.live.budget_usd:g}"),
        (config.warm_start.permute, "warm_start.permute is true"),
    ):
        if wrong:
            raise ConfigurationError(
                f"{what}, which works on a single pool; set data.pools=same, or leave it out: "
                "several pools are learned by the warm start of the slots codec alone"
            )


def _check_tools(config: RunConfig) -> None:
    if config.warm_start.recipe == "cached":
        raise ConfigurationError(
            "codec is 'tools', which has no cached recipe; set warm_start.recipe=plain (and "
            "warm_start.frozen_layers, 0 to train every layer)"
        )
    if not config.pool:
        raise ConfigurationError(
            "codec is 'tools', whose prompt shows names, prices and descriptions of the cards; "
            "give pool=POOL.yaml"
        )
    path = Path(config.base.path)
    if path.is_dir():
        from transformers import AutoTokenizer

        check_template(AutoTokenizer.from_pretrained(str(path)), config.base.path)


def check_template(tokenizer: Any, base: str) -> None:
    """Whether calls of tools can be written and read in a base's chat template. Without, a model
    learns to say nothing. A base that is no folder shows its template only once it is fetched.

    Raises:
        ConfigurationError: they can't.
    """
    from trl.chat_template_utils import add_response_schema, supports_tool_calling

    problem = None
    if not supports_tool_calling(tokenizer):
        problem = "can't render tool calls"
    elif getattr(tokenizer, "response_template", None) is None:
        try:
            add_response_schema(copy.copy(tokenizer))
        except ValueError:  # of a template that TRL does not know
            problem = "is none whose calls TRL can read"
    if problem is not None:
        raise ConfigurationError(
            f"codec is 'tools', and the chat template of {base!r} {problem}; take a base whose "
            "template does it, such as Qwen/Qwen2.5-0.5B-Instruct, or codec=slots"
        )


def check_machine(config: RunConfig) -> None:
    """What this machine lacks.

    Raises:
        ConfigurationError: no GPU for a GPU config, or a reporting package is not installed.
    """
    import torch

    trainer = config.trainer
    if trainer.device == "cuda" and not torch.cuda.is_available():
        raise ConfigurationError(
            "trainer.device is 'cuda', and this machine (or this build of torch) has no usable "
            "GPU; set trainer.device=auto, or check the settings alone with --check-arguments"
        )
    if trainer.mixed_precision == "bf16" and trainer.use_cpu:
        raise ConfigurationError(
            "trainer.mixed_precision is 'bf16', which is for a GPU; on a CPU set "
            "base.dtype=bfloat16 instead"
        )
    if trainer.report_to != "none" and find_spec(trainer.report_to) is None:
        raise ConfigurationError(
            f"trainer.report_to is {trainer.report_to!r}, which is not installed: "
            f"pip install {trainer.report_to}"
        )


def check_base(config: RunConfig) -> None:
    """The base model's path, and its layers where they can be read without loading it.

    Raises:
        ConfigurationError: nothing there, or nothing left to train.
    """
    path = Path(config.base.path)
    if not config.base.path:
        raise ConfigurationError(
            "base.path is empty; give a folder, a .gguf file or a model id, such as "
            "base.path=HuggingFaceTB/SmolLM2-135M-Instruct"
        )
    local = path.is_absolute() or config.base.path.startswith((".", "~"))
    if not (path.is_file() if path.suffix == ".gguf" else path.exists() or not local):
        raise ConfigurationError(
            f"base.path {config.base.path!r} does not exist; give a model's folder, a .gguf file, "
            "or a model id of the hub"
        )
    if path.is_dir() and not path.joinpath("config.json").is_file():
        raise ConfigurationError(
            f"base.path {config.base.path!r} has no config.json: it is no model's folder"
        )
    layers = base_layers(path)
    if layers is not None and not 0 <= config.warm_start.frozen_layers < layers:
        raise ConfigurationError(
            f"warm_start.frozen_layers is {config.warm_start.frozen_layers}; the base has {layers} "
            "layers, and at least one must be trained"
        )


def base_layers(path: Path) -> int | None:
    """Layers of the base in a folder; None where that takes loading it."""
    file = path / "config.json"
    if not file.is_file():
        return None
    found = json.loads(file.read_text()).get("num_hidden_layers")
    return None if found is None else int(found)


def check_table(config: RunConfig, table: OutcomeGrid) -> None:
    """Whether the table and the pool fit.

    Raises:
        ConfigurationError: too many models, a pool that can't be read, or one that lacks a model.
    """
    if config.data.pools == "same" and len(table.models) > len(slots.CARD_SLOTS):
        raise ConfigurationError(
            f"the table gives {len(table.models)} models; a checkpoint takes at most "
            f"{len(slots.CARD_SLOTS)} of one pool: name them in data.models"
        )
    if config.live.budget_usd and not config.pool:
        raise ConfigurationError("live.budget_usd is set; give pool=POOL.yaml, whose cards to call")
    if not config.pool:
        return
    try:
        pool = ModelPool.from_yaml(config.pool, reload=False)
    except XRouterError as error:
        raise ConfigurationError(f"pool {config.pool!r} can't be used: {error}") from error
    lacking = sorted(name for name in map(normalise_name, table.models) if name not in pool)
    if lacking:
        raise ConfigurationError(
            f"the pool {config.pool!r} has no card {', '.join(map(repr, lacking))}, which the "
            f"outcome table learns from; its cards are {', '.join(pool.names)}. Add the card, "
            "leave the model out (data.models), or give it the card's name (data.rename)"
        )
