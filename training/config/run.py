"""What a training run is asked to do: YAML, with dotted overrides from the command line."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Any, Literal, get_type_hints

from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from training.config.asking import LiveConfig
from training.config.collect import CollectConfig
from training.config.grpo import GrpoSettings
from training.config.reward import RewardConfig
from training.config.sampling import Sampling
from training.config.settings import SETTINGS, Count, Location, Text, Whole, first_problem
from training.config.tools import ToolsConfig
from training.config.trainer import TrainerConfig
from training.config.warm_start import WarmStartConfig
from xrouter_lg.errors import ConfigurationError
from xrouter_lg.json_text import shown
from xrouter_lg.yaml_text import NotYamlError, parse_yaml, read_yaml


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class DataConfig:
    """Which part of an outcome table is learned from."""

    sources: tuple[str, ...] = ()
    """Sources to keep; all of them when empty."""
    models: tuple[str, ...] = ()
    """Models of the pool; those with a known outcome on every prompt when empty."""
    rename: Mapping[str, str] = field(default_factory=dict)
    """Models that have another name in another source."""
    pools: Literal["same", "per_source"] | tuple[tuple[str, ...], ...] = "same"
    """``same``: every prompt may go to every model. ``per_source``: each source has its own models,
    those that cover it. A list of lists of sources: groups of sources that share their models."""
    leave_out: tuple[str, ...] = ()
    """Families that are neither learned from nor held out: ``source|task|category`` or its first
    parts, such as ``reasoning_gym|basic_arithmetic``."""
    family_fold: Text = ""
    """``1/3``: the first of three folds of the families is left out, too (dealt by split_seed)."""
    train_share: float = 0.5
    split_seed: Whole = 0
    strengths: Whole = 3
    """Kinds of task whose measured success is named in a card's line, most frequent first."""


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class BaseConfig:
    """The base model."""

    path: Location = ""
    """A folder, a .gguf file, or a model id of the hub."""
    model_id: Text = "SmolLM2-135M-Instruct"
    """The name recorded in the manifest."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    threads: Whole | None = None
    """Torch threads; on a busy machine fewer are faster."""


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class RunConfig:
    """One run of ``training/train.py``."""

    outcomes: Location = ""
    """A folder with ``outcomes.parquet`` and ``prompts.parquet``."""
    traces: Text = ""
    """In its place: the path or URL of a trace store, or ``langsmith:PROJECT``."""
    pool: Location = ""
    """A pool file whose cards must cover the table's models; not looked at when empty."""
    output: Location = "runs/headline"
    """The run folder; the checkpoint is its ``checkpoint``."""
    codec: Literal["slots", "tools", "cascade"] = "slots"
    """One token per decision; calls of tools in the base's own chat template; or, without a
    language model, plans of several calls learned from recorded answers."""
    weights: Literal["adapter", "merged"] = "adapter"
    min_prompts: Whole = 100
    """Fewer training prompts than this are refused: a policy learned from them is noise."""
    router_usd_per_million: float = 0.02
    """Price of the router's own tokens when the run is judged."""
    cost_weight: float = 0.3
    """λ in use: at which a log is concluded from."""
    family_head_share: Literal["auto"] | float = "auto"
    """Weight of the family head's reading beside the language model's; 0 leaves the head out, 1 the
    language model: a checkpoint without one, fitted in seconds. ``auto``: found on the validation
    prompts (``training/run/head_share.py``)."""
    collect: CollectConfig = field(default_factory=CollectConfig)
    data: DataConfig = field(default_factory=DataConfig)
    base: BaseConfig = field(default_factory=BaseConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    warm_start: WarmStartConfig = field(default_factory=WarmStartConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    sampling: Sampling = field(default_factory=lambda: Sampling(permute=False))
    """What changes from episode to episode of GRPO."""
    grpo: GrpoSettings = field(default_factory=lambda: GrpoSettings(steps=0))
    """Reinforcement learning behind the warm start; ``steps: 0`` leaves it out."""
    live: LiveConfig = field(default_factory=LiveConfig)
    cascade_turns: Count = 3
    """Only for ``codec: cascade``: decisions that a request may take."""
    tools: ToolsConfig = field(default_factory=ToolsConfig)
    """Only for ``codec: tools``."""

    @property
    def trains_model(self) -> bool:
        """Whether the language model learns: not where nothing would ever read it."""
        return self.codec == "tools" or (self.codec == "slots" and self.family_head_share != 1)


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a YAML file and apply ``a.b=value`` overrides, whose values are YAML too.

    Raises:
        ConfigurationError: no such file, no mapping, an unknown key, or a value of another type;
            the message names the key and what is allowed.
    """
    data = read_yaml(
        path, "the config file", ConfigurationError, missing="see training/configs for some"
    )
    data = {} if data is None else data
    if not isinstance(data, dict):
        raise ConfigurationError(
            f"the config file {path} holds {shown(data)}; it must hold keys, such as `outcomes:`"
        )
    for override in overrides:
        _apply(data, override)
    try:
        return TypeAdapter(RunConfig).validate_python(data)
    except ValidationError as error:
        raise ConfigurationError(first_problem(error, _keys(RunConfig))) from error


def _apply(data: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ConfigurationError(f"override {override!r} is no key=value, such as base.path=DIR")
    *parents, last = key.strip().split(".")
    for name in parents:
        data = data.setdefault(name, {})
        if not isinstance(data, dict):
            raise ConfigurationError(f"override {override!r}: {name!r} has no keys below it")
    try:
        data[last] = parse_yaml(text)
    except NotYamlError as error:
        raise ConfigurationError(f"override {override!r} is not YAML: {error}") from None


def _keys(of: type, where: str = "") -> dict[str, list[str]]:
    """The keys of a group of settings and of the groups in it, by dotted name."""
    found = {where: [field.name for field in dataclasses.fields(of)]}
    for name, kind in get_type_hints(of).items():
        if dataclasses.is_dataclass(kind):
            assert isinstance(kind, type)
            found |= _keys(kind, f"{where}.{name}" if where else name)
    return found
