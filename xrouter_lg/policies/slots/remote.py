"""A checkpoint of kind ``slots`` as a policy, its language model behind vLLM or llama.cpp.

The app needs the checkpoint's folder (manifest, tokenizer, heads) but neither its weights nor
torch. Prompts are rendered and tokenised here and sent as token ids, so the server sees the same
tokens as the model did in training; see ``remote_servers.py`` for how it is asked.

Before it is obeyed, a server is checked: it must list the model, and its log-odds on the
checkpoint's probe (``probe.py``) must be those of training. The check is repeated every five
minutes and whenever the server was unreachable.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import httpx

from xrouter_lg.checkpoints.folder import verify
from xrouter_lg.checkpoints.manifest import CheckpointError, Manifest
from xrouter_lg.errors import MissingKeyError, PolicyConfigError, PolicyError
from xrouter_lg.policies.slots.probe import check_probe, load_probe
from xrouter_lg.policies.slots.prompts import Block, SlotPolicy, SlotPrompts, SlotReading
from xrouter_lg.policies.slots.remote_servers import SERVERS, Kind
from xrouter_lg.portal import run_sync

_log = logging.getLogger(__name__)

_CHECK_EVERY_S = 300.0
_RETRY_CHECK_S = 5.0
_CONNECTIONS = 64
_AT_ONCE = 8
"""Requests under way when many are read offline."""


def model_name(manifest: Manifest) -> str:
    """The name under which our launchers serve a checkpoint: it says exactly which one it is."""
    return f"xrouter-{manifest.version}"


class RemotePolicy(SlotPolicy):
    """Routes by a checkpoint that a server runs.

    ``url`` is the server's address (with or without ``/v1``), ``server`` its kind. ``model`` is
    the name under which the server lists the checkpoint; left out, it is the name that our
    launchers give it, or the only one listed. ``api_key_env`` names the variable that holds the
    server's key. ``timeout_s`` is for one proposal.

    Raises:
        CheckpointError: at construction: no checkpoint, damaged, or made for other prompts.
        PolicyConfigError: the address or the kind of server is wrong.
        MissingKeyError: the key's variable is not set.
        MissingExtraError: the tokenizers library is not installed.
    """

    def __init__(
        self,
        url: str,
        checkpoint: str | Path,
        *,
        server: Kind = "vllm",
        model: str | None = None,
        api_key_env: str | None = None,
        timeout_s: float = 10.0,
        cache_prefix: bool = True,
    ) -> None:
        if server not in SERVERS:
            raise PolicyConfigError(f"server is {server!r}; known: {', '.join(SERVERS)}")
        folder = Path(checkpoint)
        manifest = verify(folder, kind="slots", weights=False)
        super().__init__(folder, manifest)
        self._prompts = SlotPrompts(manifest, folder)
        self._probe = load_probe(folder, manifest)
        self._server = SERVERS[server]
        self._root = root_of(url)
        self._wanted = model
        self._cache_prefix = cache_prefix
        self.timeout_s = timeout_s  # type: ignore[misc]  # an instance's own, where set
        self._headers = _headers(api_key_env)
        # Connections belong to the event loop they were opened in.
        self._loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _LoopState] = (
            weakref.WeakKeyDictionary()
        )

    @property
    def prompts(self) -> SlotPrompts:
        return self._prompts

    async def check(self) -> str:
        """Check the server now; the name under which it serves the checkpoint.

        Raises:
            CheckpointError: it serves something else.
            PolicyError: it can't be reached, or answers nonsense.
        """
        state = self._state()
        state.check = asyncio.ensure_future(self._check(state))
        state.checked_at = time.monotonic()
        return await state.check

    async def read(self, question: str, blocks: Sequence[int]) -> SlotReading:
        state = self._state()
        model = await self._checked(state)
        return await self._read(state, model, question, blocks)

    def read_many(
        self, questions: Sequence[str], blocks: Sequence[Sequence[int]]
    ) -> list[SlotReading]:
        async def read_all() -> list[SlotReading]:
            gate = asyncio.Semaphore(_AT_ONCE)

            async def one(question: str, read: Sequence[int]) -> SlotReading:
                async with gate:
                    return await self.read(question, read)

            return list(await asyncio.gather(*map(one, questions, blocks)))

        return run_sync(read_all())

    def warm_up(self) -> None:
        """Check the server, so that the first request does not wait for it. Blocks."""

        async def checked() -> None:
            await self.check()
            await self.aclose()

        # In a loop of its own: the caller's may be running, and its connections stay its own.
        with ThreadPoolExecutor(1, "xrouter-check") as thread:
            thread.submit(asyncio.run, checked()).result()

    async def aclose(self) -> None:
        """Close this event loop's connections."""
        state = self._loops.pop(asyncio.get_running_loop(), None)
        if state is not None:
            await state.client.aclose()

    def __repr__(self) -> str:
        return f"RemotePolicy({self._root!r}, {str(self.path)!r}, server={self._server.name!r})"

    def _state(self) -> _LoopState:
        loop = asyncio.get_running_loop()
        state = self._loops.get(loop)
        if state is None or state.pid != os.getpid():
            client = httpx.AsyncClient(
                base_url=self._root,
                headers=self._headers,
                # Ends a little before the router's own deadline, so that the reason is recorded.
                timeout=self.timeout_s * 0.95,
                limits=httpx.Limits(max_connections=_CONNECTIONS),
                # A proxy of the environment is for the internet, not for one's own server.
                trust_env=False,
            )
            state = self._loops[loop] = _LoopState(client)
        return state

    async def _checked(self, state: _LoopState) -> str:
        check, age = state.check, time.monotonic() - state.checked_at
        if check is not None and check.done():
            failed = check.cancelled() or check.exception() is not None
            if age > (_RETRY_CHECK_S if failed else _CHECK_EVERY_S):
                check = None
        if check is None:
            check = state.check = asyncio.ensure_future(self._check(state))
            state.checked_at = time.monotonic()
        # Shielded: a request that gives up must not stop what others wait for.
        return await asyncio.shield(check)

    async def _check(self, state: _LoopState) -> str:
        where = f"{self._server.name} at {self._root}"
        model = await self._find(state, where)
        if self._probe is None:
            if model != model_name(self.manifest) and model != self._wanted:
                raise CheckpointError(
                    f"{where} serves {model!r}, and checkpoint {str(self.path)!r} has no probe to "
                    f"tell whether that is it. Serve it as {model_name(self.manifest)!r}, or name "
                    "the model"
                )
            _log.warning("checkpoint %s has no probe: %s is trusted as it is", self.path, where)
            return model
        every = range(len(self._prompts.blocks))
        found = [
            list(self.contrasts(await self._read(state, model, question, every)).values())
            for question in self._probe.questions
        ]
        mean = check_probe(self._probe, found, f"{model!r} of {where}")
        _log.info("%s serves checkpoint %s; mean difference %.2g", where, self.version, mean)
        return model

    async def _find(self, state: _LoopState, where: str) -> str:
        """What to ask the server for: a model of its list, or one of its adapters."""
        wanted = self._wanted or model_name(self.manifest)
        served = self._server.served(await self._get(state, "/v1/models"))
        if wanted in served:
            return wanted
        adapters: Mapping[str, str] = {}
        if self._server.adapters_path is not None:
            adapters = self._server.adapters(await self._get(state, self._server.adapters_path))
        if wanted in adapters:
            return adapters[wanted]
        if len(adapters) > 1:
            served = tuple(adapters)
        if self._wanted is None and len(served) == 1:
            return served[0]
        raise CheckpointError(
            f"{where} does not serve {wanted!r}; it lists {', '.join(served) or 'nothing'}. "
            "Load the checkpoint there (docs/serving.md), or name the model that it is"
        )

    async def _read(
        self, state: _LoopState, model: str, question: str, blocks: Sequence[int]
    ) -> SlotReading:
        ids = self._prompts.question_ids(question)
        values = await asyncio.gather(
            *(self._ask(state, model, ids, self._prompts.blocks[at]) for at in blocks)
        )
        return self._prompts.reading(ids, blocks, values)

    async def _ask(
        self, state: _LoopState, model: str, question_ids: Sequence[int], block: Block
    ) -> list[float]:
        prompt = [*block.prefix_ids, *question_ids]
        body = self._server.body(model, prompt, block, cached=self._cache_prefix)
        answer = await self._send(state, "POST", self._server.path, body)
        return self._server.values(answer, block)

    async def _get(self, state: _LoopState, path: str) -> Any:
        return await self._send(state, "GET", path, None)

    async def _send(self, state: _LoopState, method: str, path: str, body: Any) -> Any:
        where = f"{self._server.name} at {self._root}"
        try:
            answer = await state.client.request(method, path, json=body)
        except httpx.HTTPError as error:
            # Whatever comes back under this address may be another server.
            state.forget()
            raise PolicyError(f"{where}: {type(error).__name__} {error}".rstrip()) from error
        if answer.status_code != 200:
            state.forget()
            raise PolicyError(f"{where} answered {answer.status_code}: {answer.text[:300]}")
        try:
            return answer.json()
        except ValueError as error:
            raise PolicyError(f"{where} answered no JSON: {answer.text[:100]!r}") from error


@dataclass(slots=True)
class _LoopState:
    """What belongs to one event loop."""

    client: httpx.AsyncClient
    check: asyncio.Future[str] | None = None
    checked_at: float = 0.0
    pid: int = field(default_factory=os.getpid)

    def forget(self) -> None:
        """Check the server again before it is obeyed again, unless that is going on."""
        if self.check is not None and self.check.done():
            self.check = None


def root_of(url: str) -> str:
    """A server's address without ``/v1``.

    Raises:
        PolicyConfigError: it is no address, or holds a password.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise PolicyConfigError(
            f"the server's address is {parts.geturl()!r}; write http://HOST:PORT/v1"
        )
    if parts.username or parts.password:
        # Never repeated: it may be a key.
        raise PolicyConfigError(
            "the server's address holds a user or password; put the key into an environment "
            "variable and the variable's name into api_key_env"
        )
    path = parts.path.rstrip("/").removesuffix("/v1")
    return urlunsplit((parts.scheme, parts.netloc, path, "", ""))


def _headers(api_key_env: str | None) -> dict[str, str]:
    if api_key_env is None:
        return {}
    key = os.environ.get(api_key_env)
    if not key:
        raise MissingKeyError(
            f"the environment variable {api_key_env} is not set; put the server's key into it"
        )
    return {"Authorization": f"Bearer {key}"}
