"""Which policy serves which kind of checkpoint, in this process or behind a server."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from xrouter_lg.checkpoints.folder import read_manifest
from xrouter_lg.checkpoints.manifest import Kind
from xrouter_lg.policies.trained import TrainedPolicy

Options = Mapping[str, Any]
"""What the user said about serving. Those about a language model mean nothing where there is none,
so that an alias may move from one kind to another."""


def load_policy(folder: Path, **options: Any) -> TrainedPolicy:
    """The policy of a checkpoint, in this process; ``base``, ``dtype`` and ``threads`` are for a
    language model.

    Raises:
        CheckpointError: no checkpoint there, damaged, or its base is missing.
        MissingExtraError: what this kind needs is not installed.
    """
    return _IN_PROCESS[read_manifest(folder).kind](folder, options)


def remote_policy(
    server: Literal["vllm", "llama_cpp"], url: str, folder: Path, **options: Any
) -> TrainedPolicy:
    """The policy of a checkpoint whose language model a server runs.

    Raises:
        CheckpointError: no checkpoint there, damaged, or a kind that needs no server.
        PolicyConfigError: the address is wrong.
        MissingKeyError, MissingExtraError: as the policy of the kind.
    """
    manifest = read_manifest(folder)
    _ = manifest.model  # says why there is nothing to serve
    return _REMOTE[manifest.kind](server, url, folder, options)


def _head(folder: Path, options: Options) -> TrainedPolicy:
    from xrouter_lg.policies.head import HeadPolicy

    return HeadPolicy(folder)


def _slots(folder: Path, options: Options) -> TrainedPolicy:
    from xrouter_lg.policies.slots.policy import CheckpointPolicy

    return CheckpointPolicy(folder, **options)


def _cascade(folder: Path, options: Options) -> TrainedPolicy:
    from xrouter_lg.policies.cascade.policy import CascadePolicy

    return CascadePolicy(folder)


def _tools(folder: Path, options: Options) -> TrainedPolicy:
    from xrouter_lg.policies.tools.policy import ToolsPolicy

    return ToolsPolicy.in_process(folder, **options)


def _remote_slots(server: Any, url: str, folder: Path, options: Options) -> TrainedPolicy:
    from xrouter_lg.policies.slots.remote import RemotePolicy

    return RemotePolicy(url, folder, server=server, **options)


def _remote_tools(server: Any, url: str, folder: Path, options: Options) -> TrainedPolicy:
    from xrouter_lg.policies.tools.policy import ToolsPolicy

    return ToolsPolicy.behind(url, folder, **options)


_IN_PROCESS: Mapping[Kind, Callable[[Path, Options], TrainedPolicy]] = {
    "head": _head,
    "slots": _slots,
    "cascade": _cascade,
    "tools": _tools,
}
_REMOTE: Mapping[Kind, Callable[[Any, str, Path, Options], TrainedPolicy]] = {
    "slots": _remote_slots,
    "tools": _remote_tools,
}
