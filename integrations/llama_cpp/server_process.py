"""The child process of :class:`~integrations.llama_cpp.server.LlamaCppServer`.

Run as a script, so that it needs nothing but xllamacpp. It reads one line of JSON settings from
standard input, starts the server, writes its address to the ready file, and lives until standard
input closes or its parent is gone: a killed parent leaves no server behind.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

_PARENT_POLL_S = 2.0


def main() -> None:
    """Serve until the parent lets go."""
    settings: dict[str, Any] = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_exit_with_parent, args=(os.getppid(),), daemon=True).start()

    # Untyped: the wheel ships no stubs.
    xllamacpp: Any = importlib.import_module("xllamacpp")
    params = xllamacpp.CommonParams()
    params.model.path = settings["weights_path"]
    params.model_alias = {settings["name"]}
    params.hostnames = ["127.0.0.1"]
    params.port = settings["port"]  # 0: the kernel picks a free one
    params.n_parallel = settings["n_parallel"]
    params.n_ctx = settings["n_ctx"] * settings["n_parallel"]  # llama.cpp divides it by slots
    params.use_jinja = True  # tool calls need a full chat template
    if settings["chat_template"] is not None:
        params.chat_template = settings["chat_template"]
    adapters = []
    for path in settings["adapters"]:
        adapter = xllamacpp.CommonAdapterLoraInfo()
        # Several are loaded to be chosen among, request by request.
        adapter.path, adapter.scale = path, 1.0 if len(settings["adapters"]) == 1 else 0.0
        adapters.append(adapter)
    if adapters:
        params.lora_adapters = adapters
    if settings["exact"]:
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        # The fused kernel computes in half precision whatever it is given.
        off = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.flash_attn_type = off
    params.cpuparams.n_threads = settings["threads"]
    params.cpuparams_batch.n_threads = settings["batch_threads"]
    # No busy waiting: servers that share the cores must not burn them between tokens.
    params.cpuparams.poll = params.cpuparams_batch.poll = 0
    # Prompts evicted from a slot are kept in this much memory; the default is 8 GiB a server.
    params.cache_ram_mib = settings["prompt_cache_mib"]
    params.ui = False
    # The default "*" would let any web page the user opens talk to the model.
    params.cors_origins = "http://127.0.0.1"

    server = xllamacpp.Server(params)
    ready = Path(settings["ready_path"])
    partial = ready.with_suffix(".tmp")
    partial.write_text(server.listening_address, encoding="utf-8")
    partial.replace(ready)
    sys.stdin.buffer.read()  # blocks until the parent closes its end
    # Skips llama.cpp's orderly wait for requests in flight; the kernel frees everything.
    os._exit(0)


def _exit_with_parent(parent: int) -> None:
    """End the process when it is handed to another parent (a pipe copy may outlive the first)."""
    while os.getppid() == parent:
        time.sleep(_PARENT_POLL_S)
    os._exit(0)


if __name__ == "__main__":
    main()
