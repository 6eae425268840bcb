"""A chat model with tools in this process: transformers on a CPU, one request at a time."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, convert_to_openai_messages
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import PrivateAttr

from xrouter_lg.checkpoints.manifest import CheckpointError
from xrouter_lg.extras import need
from xrouter_lg.policies.slots.torch_engine import load_model

_PURPOSE = "a chat model in this process"
_MAX_TOKENS = 512
"""Tokens that are written where nobody says how many."""


class LocalToolModel(BaseChatModel):
    """The language model of a checkpoint of kind ``tools``. It is loaded at the first request, and
    always says what is most probable.

    Raises:
        CheckpointError: at load: another base, or a tokenizer that can't read its answers.
        MissingExtraError: at load: torch, transformers or peft is not installed.
    """

    folder: Path
    manifest: Any
    base: Path | None = None
    dtype: str = "float32"
    threads: int | None = None
    _one: ThreadPoolExecutor | None = PrivateAttr(default=None)
    _pid: int = PrivateAttr(default=0)
    _loaded: tuple[Any, Any] | None = PrivateAttr(default=None)

    @property
    def _llm_type(self) -> str:
        return "xrouter-tools"

    def load(self) -> None:
        """Load the model now. Blocks."""
        self._submit(self._parts).result()

    def unload(self) -> None:
        """Free the model, behind whoever waits for it."""
        one, self._one, self._loaded = self._one, None, None
        if one is not None:
            one.shutdown(wait=True)

    def bind_tools(
        self, tools: Sequence[Any], *, tool_choice: Any = None, **kwargs: Any
    ) -> Runnable[Any, AIMessage]:
        """The model with these tools. It can't be forced to call one: its training sees to it."""
        return self.bind(tools=[convert_to_openai_tool(tool) for tool in tools], **kwargs)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        found: ChatResult = self._submit(self._answer, messages, kwargs).result()
        return found

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return await asyncio.wrap_future(self._submit(self._answer, messages, kwargs))

    def _submit(self, what: Any, *arguments: Any) -> Future[Any]:
        if self._one is None or self._pid != os.getpid():  # a forked process has no thread of it
            self._one, self._pid = ThreadPoolExecutor(1, "xrouter-tools"), os.getpid()
        return self._one.submit(what, *arguments)

    def _answer(self, messages: list[BaseMessage], options: dict[str, Any]) -> ChatResult:
        model, tokenizer = self._parts()
        torch, tools = need("torch", _PURPOSE), options.get("tools") or None
        ids: list[int] = tokenizer.apply_chat_template(
            _plain(messages), tools=tools, add_generation_prompt=True, return_dict=False
        )
        with torch.inference_mode():
            new = most_probable(model, tokenizer, ids, options.get("max_tokens") or _MAX_TOKENS)
        message = _message(tokenizer, ids, new, tools)
        message.usage_metadata = {
            "input_tokens": len(ids),
            "output_tokens": len(new),
            "total_tokens": len(ids) + len(new),
        }
        ended = bool(new) and new[-1] == tokenizer.eos_token_id
        message.response_metadata = {"finish_reason": "stop" if ended else "length"}
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _parts(self) -> tuple[Any, Any]:
        if self._loaded is None:
            torch, transformers = need("torch", _PURPOSE), need("transformers", _PURPOSE)
            if self.threads is not None:
                torch.set_num_threads(self.threads)
            model = load_model(self.manifest, self.folder, self.base, self.dtype, _PURPOSE)
            tokenizer = transformers.AutoTokenizer.from_pretrained(
                str(self.folder), local_files_only=True
            )
            self._loaded = model, tokenizer
            if getattr(tokenizer, "response_template", None) is None:
                raise CheckpointError(
                    f"the tokenizer of checkpoint {str(self.folder)!r} does not say how calls read "
                    f"(transformers {transformers.__version__}; 5.15 or newer is needed, here and "
                    "where it was trained). Serve it with vLLM, or train again"
                )
        return self._loaded


def most_probable(model: Any, tokenizer: Any, ids: list[int], limit: int) -> list[int]:
    """What the model writes behind these tokens, always the most probable one."""
    torch = need("torch", _PURPOSE)
    prompt = torch.tensor([ids], device=next(model.parameters()).device)
    output = model.generate(
        input_ids=prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=limit,
        do_sample=False,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    new: list[int] = output[0, len(ids) :].tolist()
    return new


def _plain(messages: Sequence[BaseMessage]) -> list[dict[str, Any]]:
    """Messages as chat templates have them: OpenAI's, but arguments are objects."""
    found: list[dict[str, Any]] = []
    for message in convert_to_openai_messages(messages):
        plain = dict(message)
        for call in plain.get("tool_calls") or ():
            call["function"]["arguments"] = json.loads(call["function"]["arguments"])
        found.append(plain)
    return found


def _message(tokenizer: Any, ids: list[int], new: list[int], tools: Any) -> AIMessage:
    """What the model said; a call that can't be read stays text, for the codec to refuse."""
    try:
        parsed = tokenizer.parse_response(new, prefix=ids, tools=tools)
        text = str(parsed.get("content") or "").removesuffix(tokenizer.eos_token)
        calls = [
            {
                "name": str(call["function"]["name"]),
                "args": dict(call["function"]["arguments"]),
                "id": f"call_{number}",
                "type": "tool_call",
            }
            for number, call in enumerate(parsed.get("tool_calls") or (), 1)
        ]
    except (ValueError, TypeError, KeyError, AttributeError):
        return AIMessage(tokenizer.decode(new, skip_special_tokens=True))
    return AIMessage(text, tool_calls=calls)
