"""``python -m integrations.vllm serve|load|unload|list``."""

from __future__ import annotations

import argparse
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from integrations.command import status_of
from xrouter_lg.checkpoints.aliases import resolve_checkpoint
from xrouter_lg.checkpoints.bases import find_base
from xrouter_lg.checkpoints.folder import read_manifest
from xrouter_lg.checkpoints.manifest import CheckpointError
from xrouter_lg.policies.slots.remote import model_name

from .adapters import Adapters
from .server import VllmServer

_KEY_VARIABLE = "XROUTER_VLLM_KEY"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the process's exit status."""
    options = _parser().parse_args(arguments)
    commands = {"serve": _serve, "load": _load, "unload": _unload, "list": _list}
    return status_of(lambda: commands[options.command](options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m integrations.vllm",
        description="Serve trained checkpoints with vLLM.",
        epilog=f"The server's key is read from {_KEY_VARIABLE}; serve makes one up without it.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    serve = commands.add_parser("serve", help="start vLLM with a checkpoint; Ctrl-C stops")
    serve.add_argument("checkpoint", type=Path, help="a checkpoint's folder, or an alias")
    serve.add_argument("--base", help="the adapter's base model; default XROUTER_BASE")
    serve.add_argument("--port", type=int, default=8000)
    serve.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto")
    serve.add_argument("--python", type=Path, help="interpreter with vLLM")
    serve.add_argument("--key-file", type=Path, help="write the key here (mode 600)")
    load = commands.add_parser("load", help="load a checkpoint into a running server")
    load.add_argument("checkpoint", type=Path, help="a checkpoint's folder, or an alias")
    load.add_argument("--keep", type=int, default=1, help="older ones to keep (default: 1)")
    unload = commands.add_parser("unload", help="forget an adapter")
    unload.add_argument("name")
    for command in (load, unload, commands.add_parser("list", help="models and adapters")):
        command.add_argument("--url", default="http://127.0.0.1:8000/v1")
    return parser


def _serve(options: argparse.Namespace) -> None:
    folder = resolve_checkpoint(options.checkpoint)
    manifest = read_manifest(folder)
    base = find_base(manifest, folder, options.base)
    if manifest.kind == "tools":
        raise CheckpointError(
            f"checkpoint {str(folder)!r} is of kind 'tools': vLLM must know how its base writes "
            "calls. Start it yourself (vllm serve BASE --enable-lora --enable-auto-tool-choice "
            "--tool-call-parser NAME), then `python -m integrations.vllm load` the checkpoint"
        )
    server = VllmServer(
        base or folder,
        # A merged checkpoint is a model of its own, under the name that says which one it is.
        name="base" if base is not None else model_name(manifest),
        max_lora_rank=0 if base is None else _rank(folder),
        port=options.port,
        dtype=options.dtype,
        python=options.python,
        api_key=os.environ.get(_KEY_VARIABLE),
    )
    with server:
        if base is not None:
            Adapters(server.base_url, api_key=server.api_key).load(folder, base=base)
        if options.key_file is not None:
            options.key_file.touch(mode=0o600)
            options.key_file.write_text(server.api_key)
        print(
            f"policy='vllm:{server.base_url}?checkpoint={options.checkpoint}"
            f"&api_key_env={_KEY_VARIABLE}'",
            flush=True,
        )
        print("serving; Ctrl-C stops", file=sys.stderr)
        threading.Event().wait()


def _rank(folder: Path) -> int:
    """The smallest rank limit that vLLM knows and that holds the adapter."""
    import json

    rank = int(json.loads(folder.joinpath("adapter_config.json").read_text())["r"])
    return next((r for r in (8, 16, 32, 64, 128, 256) if r >= rank), rank)


def _load(options: argparse.Namespace) -> None:
    print(_adapters(options).swap(resolve_checkpoint(options.checkpoint), keep=options.keep))


def _unload(options: argparse.Namespace) -> None:
    _adapters(options).unload(options.name)


def _list(options: argparse.Namespace) -> None:
    for name in _adapters(options).names():
        print(name)


def _adapters(options: argparse.Namespace) -> Adapters:
    return Adapters(options.url, api_key=os.environ.get(_KEY_VARIABLE))


if __name__ == "__main__":
    raise SystemExit(main())
