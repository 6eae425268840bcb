"""Checkpoints as adapters of a running vLLM server: load, list, unload, without a restart.

An adapter is loaded under a name that holds the checkpoint's version. A promoted checkpoint is
loaded beside the one that serves, requests move over by name, and the old one is unloaded: no
request ever meets half of each. Loading new weights under an old name would also leave the old
weights' keys and values in vLLM's prefix cache.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from integrations.errors import AdapterError
from xrouter_lg.checkpoints.folder import verify
from xrouter_lg.policies.slots.remote import model_name

_TIMEOUT_S = 120.0


class Adapters:
    """The adapters of one server. ``url`` is its address, ``api_key`` its key, where it has one.

    Raises:
        AdapterError: from every method: the server can't be reached, or refuses.
    """

    def __init__(self, url: str, *, api_key: str | None = None) -> None:
        self._root = url.rstrip("/").removesuffix("/v1")
        self._headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}

    def load(self, checkpoint: str | Path, *, base: str | Path | None = None) -> str:
        """Load a checkpoint; the model name to ask for it. Loaded already: nothing happens.

        The server reads the folder itself, so the path must be valid where it runs. ``base`` is
        the folder of the model that the server serves; with it, an adapter for another base is
        refused before it is sent.

        Raises:
            CheckpointError: the checkpoint is damaged, made for other prompts, or for another
                base.
            AdapterError: it is merged (serve its folder instead), or the server refuses it.
        """
        folder = Path(checkpoint)
        manifest = verify(folder)
        if manifest.model.weights == "merged":
            raise AdapterError(
                f"checkpoint {str(folder)!r} is merged: it is a model of its own. Start a server "
                "on its folder instead"
            )
        if base is not None:
            from xrouter_lg.checkpoints.identity import check_base

            check_base(manifest, Path(base))
        name = model_name(manifest)
        if name not in self.names():
            path = str(folder.resolve())
            self._send("POST", "/v1/load_lora_adapter", {"lora_name": name, "lora_path": path})
        return name

    def unload(self, name: str) -> None:
        """Forget an adapter. Requests that name it fail from now on."""
        self._send("POST", "/v1/unload_lora_adapter", {"lora_name": name})

    def swap(self, checkpoint: str | Path, *, base: str | Path | None = None, keep: int = 1) -> str:
        """Load a checkpoint and unload our older ones but the latest ``keep``, so that a rollback
        finds the one before; the new one's model name."""
        name = self.load(checkpoint, base=base)
        older = [n for n in self.names() if n.startswith("xrouter-") and n != name]
        for gone in older[: max(0, len(older) - keep)]:
            self.unload(gone)
        return name

    def names(self) -> list[str]:
        """Names of all models and adapters, in the order they were loaded."""
        listed = self._send("GET", "/v1/models", None)
        return [str(entry["id"]) for entry in listed["data"]]

    def _send(self, method: str, path: str, body: Mapping[str, Any] | None) -> Any:
        try:
            answer = httpx.request(
                method,
                f"{self._root}{path}",
                json=body,
                headers=self._headers,
                timeout=_TIMEOUT_S,
                trust_env=False,
            )
        except httpx.HTTPError as error:
            raise AdapterError(f"vLLM at {self._root}: {type(error).__name__} {error}") from error
        if answer.status_code == 404 and "lora" in path:
            raise AdapterError(
                f"vLLM at {self._root} loads no adapters while it runs, or knows no such adapter; "
                "start it with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True and --enable-lora "
                f"({answer.text[:200]})"
            )
        if answer.status_code != 200:
            raise AdapterError(
                f"vLLM at {self._root} answered {answer.status_code} to {path}: {answer.text[:300]}"
            )
        try:
            return answer.json()
        except json.JSONDecodeError:
            return answer.text
