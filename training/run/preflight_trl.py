"""Whether the arguments of a run fit the installed versions, without a GPU and without a model.

A GPU run fails late and dearly: on another machine, after a queue, in the third library. Here
everything it hands to TRL, accelerate, DeepSpeed and vLLM is built as it would be there. What
depends on a device alone (``use_cpu``) is set so that it can be built here; every name, value and
combination is checked by the library's own code. A library that is not installed is reported as
not checked, never as right.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console
from rich.table import Table

from xrouter_lg.errors import ConfigurationError
from xrouter_lg.yaml_text import read_yaml

if TYPE_CHECKING:
    from training.config.run import RunConfig

Outcome = Literal["ok", "wrong", "not checked"]

CONFIGS = Path(__file__).parent.parent / "configs"
ACCELERATE = CONFIGS / "accelerate_zero2.yaml"
"""How ``accelerate launch`` starts the processes of ``multi_gpu.yaml``."""


@dataclass(frozen=True)
class CheckResult:
    """What became of one check."""

    what: str
    outcome: Outcome
    detail: str = ""


def check_arguments(
    config: RunConfig, accelerate_file: Path | None = ACCELERATE
) -> list[CheckResult]:
    """Every check that applies to a run. ``accelerate_file`` is what it is launched with."""
    found = [_checked("TRL SFTConfig", lambda: _sft(config))]
    if config.grpo.steps:
        found.append(_checked("TRL GRPOConfig", lambda: _grpo(config)))
    if config.tools.vllm == "server" and config.codec == "tools":
        found.append(_checked("TRL vllm-serve", lambda: _vllm_serve(config)))
    if config.codec == "tools" and config.tools.vllm != "none":
        found.append(_installed("vllm"))
    if accelerate_file is not None:
        name = accelerate_file.name
        found.append(_checked(f"accelerate {name}", lambda: _accelerate(accelerate_file)))
        found.append(_checked(f"DeepSpeed {name}", lambda: _deepspeed(accelerate_file)))
        if _stage(accelerate_file):
            found.append(_installed("deepspeed"))
    return found


def report(findings: Sequence[CheckResult], console: Console) -> int:
    """Print the findings; exit code 1 when something is wrong."""
    table = Table(title="arguments against the installed versions", title_justify="left")
    for column in ("what", "outcome", "detail"):
        table.add_column(column)
    for finding in findings:
        table.add_row(finding.what, finding.outcome, finding.detail)
    console.print(table)
    return int(any(finding.outcome == "wrong" for finding in findings))


def _checked(what: str, build: Callable[[], str]) -> CheckResult:
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return CheckResult(what, "ok", build())
    except (Exception, SystemExit) as error:  # argument parsers exit
        text = str(error) or type(error).__name__
        return CheckResult(what, "wrong", f"{type(error).__name__}: {text}")


def _installed(package: str) -> CheckResult:
    if find_spec(package) is None:
        return CheckResult(package, "not checked", f"not installed here: pip install {package}")
    version = importlib.metadata.version(package)
    if package == "vllm":
        return _checked(f"vllm {version}", _vllm_engine)
    return CheckResult(package, "ok", version)


def _sft(config: RunConfig) -> str:
    from trl.trainer.sft_config import SFTConfig

    from training.warm_start import trainer as sft

    build = sft.shared_arguments if config.codec == "tools" else sft.arguments
    return _built(SFTConfig, build(config.warm_start, config.trainer, Path("x/warm_start")))


def _grpo(config: RunConfig) -> str:
    from trl.trainer.grpo_config import GRPOConfig

    if config.codec == "tools":
        from training.tools.trainer import arguments as tools_arguments

        return _built(
            GRPOConfig,
            tools_arguments(config.grpo, config.trainer, config.tools, Path("x/grpo")),
        )
    from training.grpo.trainer import arguments

    return _built(GRPOConfig, arguments(config.grpo, config.trainer, Path("x/grpo")))


def _built(kind: Any, arguments: Mapping[str, Any]) -> str:
    known = {field.name for field in dataclasses.fields(kind)}
    unknown = sorted(set(arguments) - known)
    if unknown:
        raise TypeError(f"{kind.__name__} knows no {', '.join(unknown)}")
    # A GPU's own settings can't be built without one: bfloat16 on the CPU passes the same code.
    kind(**{**arguments, "use_cpu": True, "report_to": "none"})
    return f"{len(arguments)} arguments, TRL {importlib.metadata.version('trl')}"


def _vllm_serve(config: RunConfig) -> str:
    from trl.scripts.vllm_serve import ScriptArguments

    arguments = server_arguments(config)
    ScriptArguments(**arguments)
    return " ".join(f"--{name} {value}" for name, value in arguments.items())


def server_arguments(config: RunConfig) -> dict[str, Any]:
    """What ``trl vllm-serve`` is started with, beside the training processes."""
    return {
        "model": config.base.path or "BASE",
        "tensor_parallel_size": config.tools.vllm_tensor_parallel_size,
        "dtype": "bfloat16",
        "enable_prefix_caching": True,
    }


def _vllm_engine() -> str:
    from vllm import EngineArgs  # type: ignore[import-not-found,unused-ignore]

    known = {field.name for field in dataclasses.fields(EngineArgs)}
    wanted = {"model", "tensor_parallel_size", "dtype", "enable_prefix_caching", "enable_lora"}
    lacking = sorted(wanted - known)
    if lacking:
        raise TypeError(f"vLLM's EngineArgs knows no {', '.join(lacking)}")
    return "engine arguments are known"


def _accelerate(file: Path) -> str:
    from accelerate.commands.config.config_args import load_config_from_file

    found = load_config_from_file(str(file))
    version = importlib.metadata.version("accelerate")
    return f"{found.num_processes} processes, {found.distributed_type}, accelerate {version}"


def _deepspeed(file: Path) -> str:
    from accelerate.commands.launch import launch_command_parser

    settings = _deepspeed_settings(file)
    if not settings:
        return "no DeepSpeed"
    options = {action.dest for action in launch_command_parser()._actions}
    unknown = sorted(name for name in settings if name not in options)
    if unknown:
        raise ValueError(f"accelerate launch knows no DeepSpeed setting {', '.join(unknown)}")
    stage = int(settings.get("zero_stage", 0))
    if stage == 3:
        raise ValueError(
            "zero_stage is 3, which parts the weights that slots are read from; use 2 (models of "
            "a router's size fit)"
        )
    return f"ZeRO stage {stage}"


def _stage(file: Path) -> int:
    try:
        return int(_deepspeed_settings(file).get("zero_stage", 0))
    except (ConfigurationError, ValueError, TypeError):
        return 0  # what is wrong with the file is told by the checks above


def _deepspeed_settings(file: Path) -> Mapping[str, Any]:
    data = read_yaml(file, "the accelerate file", ConfigurationError, missing=f"see {ACCELERATE}")
    settings = data.get("deepspeed_config") if isinstance(data, dict) else None
    return settings if isinstance(settings, dict) else {}
