"""``ChatXRouter``: the router wherever LangChain takes a chat model."""

from __future__ import annotations

import asyncio
import difflib
import os
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, NoReturn

from langchain_core.language_models import LanguageModelInput
from langchain_core.language_models.base import LangSmithParams
from langchain_core.language_models.model_profile import ModelProfile
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.runnables import Runnable, RunnableConfig, RunnableMap, RunnablePassthrough
from langchain_core.runnables.config import ensure_config
from langchain_core.runnables.utils import ConfigurableFieldSpec
from pydantic import ConfigDict, PrivateAttr, ValidationError

from xrouter_lg.calls.ledger import Budget
from xrouter_lg.calls.told.stream_watch import handlers_of, with_handler
from xrouter_lg.calls.told.token_sink import TokenSink, as_chunk
from xrouter_lg.calls.worker.parameters import ForeignSettings
from xrouter_lg.calls.worker.structured import Structured
from xrouter_lg.chat.bound_tools import BoundTools
from xrouter_lg.chat.options import ROUTER_MODEL, STRUCTURED, Invocation, sorted_keywords
from xrouter_lg.chat.parsed import CardParser
from xrouter_lg.chat.plumbing import AskedByInvoke
from xrouter_lg.chat.profile import profile_of_pool
from xrouter_lg.chat.streaming import chunks_of
from xrouter_lg.errors import ConfigurationError, EmptyMessagesError
from xrouter_lg.graph.asking import RequestSteps
from xrouter_lg.graph.calling.run_ending import endings_of
from xrouter_lg.graph.direct import DirectRequest, OwnRun
from xrouter_lg.graph.request import OPTION_SPECS
from xrouter_lg.graph.state import OPTIONS_KEY
from xrouter_lg.pool.plain import pool_data
from xrouter_lg.pool.pool import ModelPool
from xrouter_lg.portal import iterate_sync, run_sync
from xrouter_lg.routing.exploration import Exploration
from xrouter_lg.routing.router import Router, as_router
from xrouter_lg.tracing.record.recorder import Recorder

POOL_VARIABLE, POLICY_VARIABLE = "XROUTER_POOL", "XROUTER_POLICY"
"""Environment variables: the pool file and the policy of a model that is given none."""

_KEPT = 128
_ROUTED = ("quality_target", "allow", "deny", "max_cost_usd", "tenant", "per_step")


class ChatXRouter(AskedByInvoke):
    """A chat model that lets one of several answer, and says which, why and at what price.

    ``ChatXRouter(pool, policy="cheapest")`` goes wherever LangChain takes a chat model: agents,
    chains, middleware. The answer is the worker's own message with the route record in
    ``response_metadata["xrouter"]``. Policy, budgets, failover and records are those of
    :class:`~xrouter_lg.graph.node.XRouterNode`, and so are its options; a request passes no graph,
    leaves no checkpoint and spends none of an app's ``recursion_limit``.

    ``pool``: a :class:`ModelPool`, a :class:`Router`, the path of a pool file, or the mapping that
    one holds. Left out, ``XROUTER_POOL`` names the file and ``XROUTER_POLICY`` the policy.
    ``temperature``, ``max_tokens`` (output tokens) and ``stop`` are for whichever model answers,
    ``timeout`` (seconds) is for the whole request. Timeouts and retries of one attempt are the
    cards'.

    Per request ``config["configurable"]`` takes ``cost_weight``, ``quality_target``, ``allow``,
    ``deny``, ``max_cost_usd``, ``per_step``, ``thread_id`` and ``tenant``, and so do keywords of an
    invocation and of ``bind``. ``model="small"`` asks one card, ``model="xrouter:0.3"`` sets the
    cost weight. All other keywords reach the model that answers.

    In a trace the request is a chain named ``xrouter`` with the workers' runs below it: whoever
    counts tokens or model starts counts the workers', once.

    Raises:
        ConfigurationError: on construction, for a bad card, key, policy or option.
        RequestError, BudgetExceededError, AllCandidatesFailedError, StreamInterruptedError: on a
            request; see :mod:`xrouter_lg.errors`.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    pool: Any = None
    policy: Any = None
    cost_weight: float | None = None
    max_turns: int | None = None
    budget: Budget | None = None
    exploration: float | Exploration | None = None
    traces: Any = None
    quality_target: float | None = None
    allow: Sequence[str] | None = None
    deny: Sequence[str] | None = None
    max_cost_usd: float | str | None = None
    tenant: str | None = None
    per_step: bool | None = None
    """Whether the policy is asked inside a tool loop too, instead of staying with the model that
    called the tools."""
    temperature: float | None = None
    max_tokens: int | None = None
    stop: list[str] | None = None
    timeout: float | None = None
    streaming: bool = False
    """Whether ``invoke`` too asks for a stream of tokens, as handlers of tokens make it do."""

    _router: Router = PrivateAttr()
    _recorder: Recorder | None = PrivateAttr(default=None)
    _settings: dict[str, Any] = PrivateAttr(default_factory=dict)
    _foreign: ForeignSettings | None = PrivateAttr(default=None)
    _askings: dict[Any, tuple[RequestSteps, Invocation]] = PrivateAttr(default_factory=dict)

    def __init__(self, pool: Any = None, **options: Any) -> None:
        known = type(self).model_fields
        for name in options:
            if name not in known:
                _refuse(name, known)
        try:
            super().__init__(**{"pool": pool, **options})
        except ValidationError as error:
            for found in error.errors():  # pydantic wraps what is a ValueError too
                if isinstance(ours := found.get("ctx", {}).get("error"), ConfigurationError):
                    raise ours from None
            raise

    def model_post_init(self, context: Any, /) -> None:
        super().model_post_init(context)
        pool, policy = self.pool, self.policy
        if pool is None:
            pool = os.environ.get(POOL_VARIABLE)
            if not pool:
                raise ConfigurationError(
                    "ChatXRouter has no pool; give one, such as ModelPool.from_yaml('pool.yaml'), "
                    f"or put a pool file's path into {POOL_VARIABLE}"
                )
            self.pool = pool
            if policy is None:
                policy = self.policy = os.environ.get(POLICY_VARIABLE)
        self._router = as_router(
            pool_of(pool),
            policy=policy,
            cost_weight=self.cost_weight,
            max_turns=self.max_turns,
            budget=self.budget,
            exploration=self.exploration,
        )
        traces = self.traces
        if traces is not None:
            self._recorder = traces if isinstance(traces, Recorder) else Recorder(traces)
        named = {"cache": self.cache, "output_version": self.output_version}
        self._settings = {name: value for name, value in named.items() if value is not None}

    @property
    def router(self) -> Router:
        """The router behind the model."""
        return self._router

    @property
    def config_specs(self) -> list[ConfigurableFieldSpec]:
        """What ``config["configurable"]`` takes, for whoever draws a form of it."""
        return list(OPTION_SPECS)

    # --- as a runnable ---------------------------------------------------------------------

    def invoke(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        return run_sync(self.ainvoke(input, config, stop=stop, **kwargs), endings_of(config))

    async def ainvoke(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        unseen = TokenSink(lambda card, chunk: None) if self.streaming else None
        return await self._answer(self._request(input, config, stop, kwargs, unseen))

    def stream(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> Iterator[AIMessageChunk]:
        yield from iterate_sync(
            lambda: self.astream(input, config, stop=stop, **kwargs), endings_of(config)
        )

    async def astream(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[AIMessageChunk]:
        if self._streaming_disabled(**kwargs):
            yield as_chunk(await self.ainvoke(input, config, stop=stop, **kwargs))
            return

        async def answered(sink: TokenSink) -> AIMessage:
            return await self._answer(self._request(input, config, stop, kwargs, sink))

        async for chunk in chunks_of(answered):
            yield chunk

    def bind_tools(
        self,
        tools: Sequence[Any],
        *,
        tool_choice: Any = None,
        parallel_tool_calls: bool | None = None,
        **options: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """The model with the app's tools. Tools and options (``tool_choice``,
        ``parallel_tool_calls``, ``strict`` ...) reach the ``bind_tools`` of the model that answers
        as given; a card without the capability ``tools`` is then no candidate."""
        # By name, since a supervisor looks for the parameter before it forbids parallel calls.
        named = {"tool_choice": tool_choice, "parallel_tool_calls": parallel_tool_calls}
        options |= {name: value for name, value in named.items() if value is not None}
        return self.bind(**{**options, "tools": BoundTools(tools, options)})

    def with_structured_output(
        self, schema: Any, *, include_raw: bool = False, **options: Any
    ) -> Runnable[LanguageModelInput, Any]:
        """The model with an answer that follows ``schema``, asked for and read as the class of the
        model that answers does it. ``options`` (``method``, ``strict`` ...) reach that class.

        Raises:
            RequestError: no card's class takes them.
        """
        structured = Structured(schema, options)
        parser = CardParser(self.router, structured)
        parser.check(self.router.pool)
        asked = self.bind(**{STRUCTURED: structured})
        if not include_raw:
            return asked | parser
        parsed = RunnablePassthrough.assign(
            parsed=itemgetter("raw") | parser, parsing_error=lambda _: None
        )
        failed = RunnablePassthrough.assign(parsed=lambda _: None)
        return RunnableMap(raw=asked) | parsed.with_fallbacks(
            [failed], exception_key="parsing_error"
        )

    def with_settings_of(self, kind: type[Any], settings: Mapping[str, Any]) -> ChatXRouter:
        """The same model with keywords that were meant for a chat model of class ``kind``: they
        reach only cards of that class."""
        changed = self.model_copy()
        changed._foreign = ForeignSettings(kind, dict(settings)) if settings else None
        changed._askings = {}
        return changed

    # --- one request -----------------------------------------------------------------------

    def _request(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None,
        stop: list[str] | None,
        kwargs: Mapping[str, Any],
        sink: TokenSink | None,
    ) -> DirectRequest:
        given = {"temperature": self.temperature, "max_tokens": self.max_tokens, "stop": self.stop}
        asked = {**kwargs, "stop": stop} if stop is not None else dict(kwargs)
        asked = {**{name: value for name, value in given.items() if value is not None}, **asked}
        invocation = sorted_keywords(asked, self.router.pool)
        messages = self._convert_input(input).to_messages()
        if not messages:
            raise EmptyMessagesError("there is no message to answer; give at least one")
        merged = ensure_config(config)
        own = {name: value for name in _ROUTED if (value := getattr(self, name)) is not None}
        merged["configurable"] = {
            **own,
            **(merged.get("configurable") or {}),
            **invocation.routing,
            OPTIONS_KEY: invocation.worker,
        }
        if self._recorder is not None and self._recorder not in handlers_of(merged):
            merged = with_handler(merged, self._recorder)
        return DirectRequest(self._asking(invocation), messages, merged, invocation.limits, sink)

    async def _answer(self, request: DirectRequest) -> AIMessage:
        own = OwnRun(self.callbacks, self.verbose, self.tags, self.metadata)
        async with asyncio.timeout(self.timeout):
            if self.rate_limiter is not None:
                await self.rate_limiter.aacquire(blocking=True)
            return await request.answer(own)

    def _asking(self, invocation: Invocation) -> RequestSteps:
        """What was measured of the tools once is kept for as long as they are the same."""
        options = invocation.tool_options.items()
        key = (
            id(invocation.tools),
            id(invocation.structured),
            tuple((name, id(value)) for name, value in options),
        )
        found = self._askings.get(key)
        if found is None:
            made = RequestSteps(self.router, invocation.binding(self._settings, self._foreign))
            if len(self._askings) >= _KEPT:
                self._askings.pop(next(iter(self._askings)), None)
            # With the invocation, so that the ids of its parts are not given again.
            found = self._askings[key] = made, invocation
        return found[0]

    # --- as a language model ---------------------------------------------------------------

    @property
    def _llm_type(self) -> str:
        return "xrouter"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        router = self.router
        return {
            "pool": router.pool.fingerprint,
            "cards": list(router.pool.names),
            "policy": router.policy.name,
            "policy_version": router.policy.version,
            "cost_weight": router.cost_weight,
            "max_turns": router.max_turns,
            **{name: value for name in _ROUTED if (value := getattr(self, name)) is not None},
        }

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        given = {"model": ROUTER_MODEL, **kwargs}
        return super()._get_ls_params(stop=stop or self.stop, **given)

    def _resolve_model_profile(self) -> ModelProfile | None:
        return profile_of_pool(self.router.pool)

    # --- as data ---------------------------------------------------------------------------

    @classmethod
    def is_lc_serializable(cls) -> bool:
        return True

    def to_json(self) -> Any:
        """As LangChain serialises: the pool as data, without keys. A policy or a recorder that is
        an object can't be written; such a model is marked as not serialisable."""
        if not isinstance(self.policy, str | Path | None) or isinstance(self.pool, Router):
            return self.to_json_not_implemented()
        written = super().to_json()
        kwargs: dict[str, Any] = written["kwargs"]  # type: ignore[typeddict-item]
        kwargs.pop("traces", None)
        if isinstance(self.policy, Path):
            kwargs["policy"] = str(self.policy)
        if isinstance(self.pool, ModelPool):
            kwargs["pool"] = pool_data(self.pool.current())
        elif isinstance(self.pool, Path):
            kwargs["pool"] = str(self.pool)
        for name in ("budget", "exploration"):
            if not isinstance(kwargs.get(name), float | int | None):
                return self.to_json_not_implemented()
        return written


def pool_of(given: Any) -> ModelPool | Router:
    """A pool, or a router, from what may be written for one: a pool file's path, or what one holds.

    Raises:
        PoolError: a file that can't be read, a bad value.
    """
    if isinstance(given, str | Path):
        return ModelPool.from_yaml(given)
    if isinstance(given, Mapping):
        return ModelPool.from_dict(given)
    pool: ModelPool | Router = given  # what else it may be is the router's to refuse
    return pool


def _refuse(name: str, known: Mapping[str, Any]) -> NoReturn:
    of_cards = {"max_retries": "max_retries", "model": "model", "api_key": "api_key_env"}
    if name in of_cards:
        fix = f"set {of_cards[name]} on the pool's cards instead"
    else:
        near = difflib.get_close_matches(name, known, 1)
        fix = f"did you mean {near[0]!r}?" if near else f"it takes {', '.join(sorted(known))}"
    raise ConfigurationError(f"ChatXRouter has no option {name!r}; {fix}")
