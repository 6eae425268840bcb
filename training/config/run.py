"""What a training run is asked to do: YAML, with dotted overrides from the command line."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from training.config.asking import LiveConfig
from training.config.collect import CollectConfig
from training.config.grpo import GrpoSettings
from training.config.tools import ToolsConfig
from training.config.trainer import TrainerConfig
from training.config.warm_start import WarmStartConfig
from training.data.reward import RewardConfig
from training.grpo.episodes import Sampling
from xrouter_lg.errors import ConfigurationError


@dataclass(frozen=True, kw_only=True)
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
    family_fold: str = ""
    """``1/3``: the first of three folds of the families is left out, too (dealt by split_seed)."""
    train_share: float = 0.5
    split_seed: int = 0
    strengths: int = 3
    """Kinds of task whose measured success is named in a card's line, most frequent first."""


@dataclass(frozen=True, kw_only=True)
class BaseConfig:
    """The base model."""

    path: str = ""
    """A folder, a .gguf file, or a model id of the hub."""
    model_id: str = "SmolLM2-135M-Instruct"
    """The name recorded in the manifest."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    threads: int | None = None
    """Torch threads; on a busy machine fewer are faster."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One run of ``training/train.py``."""

    outcomes: str = ""
    """A folder with ``outcomes.parquet`` and ``prompts.parquet``."""
    traces: str = ""
    """In its place: the path or URL of a trace store, or ``langsmith:PROJECT``."""
    pool: str = ""
    """A pool file whose cards must cover the table's models; not looked at when empty."""
    output: str = "runs/headline"
    """The run folder; the checkpoint is its ``checkpoint``."""
    codec: Literal["slots", "tools"] = "slots"
    """One token per decision, or calls of tools in the base's own chat template."""
    weights: Literal["adapter", "merged"] = "adapter"
    min_prompts: int = 100
    """Fewer training prompts than this are refused: a policy learned from them is noise."""
    router_usd_per_million: float = 0.02
    """Price of the router's own tokens when the run is judged."""
    family_head_share: Literal["auto"] | float = "auto"
    """Weight of the family head's reading beside the language model's; 0 leaves the head out, 1 the
    language model: a checkpoint without one, fitted in seconds. ``auto``: found on the validation
    prompts (head_share.py)."""
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
    tools: ToolsConfig = field(default_factory=ToolsConfig)
    """Only for ``codec: tools``."""

    @property
    def trains_model(self) -> bool:
        """Whether the language model learns: not where nothing would ever read it."""
        return self.family_head_share != 1 or self.codec == "tools"


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a YAML file and apply ``a.b=value`` overrides, whose values are YAML too.

    Raises:
        ConfigurationError: no such file, no mapping, an unknown key, or a value of another type;
            the message names the key and what is allowed.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except FileNotFoundError:
        raise ConfigurationError(f"no config file {str(path)!r}; see training/configs") from None
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{str(path)!r} is no YAML: {error}") from error
    if not isinstance(data, dict):
        raise ConfigurationError(f"{str(path)!r} holds a {type(data).__name__}, not a mapping")
    for override in overrides:
        _apply(data, override)
    config: RunConfig = _build(RunConfig, data, "")
    return config


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
        data[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigurationError(f"override {override!r}: the value is no YAML") from error


def _build(cls: Any, data: Any, where: str) -> Any:
    if not isinstance(data, Mapping):
        raise ConfigurationError(f"{where or 'config'} is {data!r}; it must be a mapping")
    hints = typing.get_type_hints(cls)
    known = [f.name for f in dataclasses.fields(cls)]
    values: dict[str, Any] = {}
    for key, value in data.items():
        name = f"{where}{key}"
        if key not in known:
            raise ConfigurationError(f"unknown key {name!r}; known: {', '.join(known)}")
        kind = hints[key]
        if dataclasses.is_dataclass(kind):
            values[key] = _build(kind, value, f"{name}.")
        else:
            values[key] = _cast(kind, value, name)
    try:
        return cls(**values)
    except ValueError as error:
        text = str(error)
        named = text if text.startswith(where) or not where else f"{where[:-1]}: {text}"
        raise ConfigurationError(named) from error


def _cast(kind: Any, value: Any, name: str) -> Any:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in args:
            return None
        kinds = [arg for arg in args if arg is not type(None)]
        # Words are tried first; whatever else is given belongs to the other kind.
        last = not isinstance(value, str) and typing.get_origin(kinds[0]) is Literal
        return _cast(kinds[-1 if last else 0], value, name)
    if origin is Literal:
        if value not in args:
            allowed = ", ".join(map(repr, args))
            raise ConfigurationError(f"{name} is {value!r}; it must be one of {allowed}")
        return value
    if origin is tuple and typing.get_origin(args[0]) is tuple:
        if not isinstance(value, list):
            raise ConfigurationError(f"{name} is {value!r}; it must be a list of lists of texts")
        return tuple(_cast(args[0], item, name) for item in value)
    if origin is tuple:
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise ConfigurationError(f"{name} is {value!r}; it must be a list of texts")
        return tuple(value)
    if origin is not None:
        if not isinstance(value, Mapping):
            raise ConfigurationError(f"{name} is {value!r}; it must be a mapping")
        return dict(value)
    if kind is str and value is None:  # `key=` on the command line, `key:` in a file
        return ""
    if kind is float and isinstance(value, str):
        # YAML reads 1e-3 as text.
        try:
            return float(value)
        except ValueError:
            pass
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ConfigurationError(f"{name} is {value!r}; it must be {kind.__name__}")
    return value
