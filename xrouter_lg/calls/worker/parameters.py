"""What a worker is called with: the app's own tools and options as they were given, the limit and
temperature of a call by the names that a provider's class takes, less what the model refuses."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from langchain_core.language_models import BaseChatModel
from langchain_core.runnables import Runnable, RunnableBinding
from pydantic import PydanticUserError, TypeAdapter

from xrouter_lg.calls.money import runs_by_itself
from xrouter_lg.calls.worker.clients import is_a
from xrouter_lg.calls.worker.structured import Structured
from xrouter_lg.errors import RequestError
from xrouter_lg.types import PlannedCall

LIMITS = (
    "max_completion_tokens",
    "max_tokens",
    "max_output_tokens",
    "num_predict",
    "max_new_tokens",
    "max_tokens_to_sample",
)
"""The names by which providers limit an answer's length."""

OPTIONAL = frozenset(
    {
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "frequency_penalty",
        "presence_penalty",
        "repetition_penalty",
        "seed",
        "random_seed",
        "stop",
        "logprobs",
        "top_logprobs",
        "logit_bias",
        "parallel_tool_calls",
        "reasoning",
        "reasoning_effort",
        "thinking",
        "verbosity",
        "user",
        "stream_options",
    }
)
"""What a request does without when a model refuses it: how to draw an answer, not what is asked."""

_CHOICE = ("tool_choice", "strict", "parallel_tool_calls")
_OF_TOOLS = (*_CHOICE, "tool_config")
"""Options of ``bind_tools`` that mean nothing, or are refused, where no tool is bound."""

NO_TOOLS = frozenset({"tools", "tool_choice", "strict"})
"""What a provider may refuse of an empty list of tools: such a list is then left out, with its
options."""

_CONTAINERS = ("extra_body", "options", "generation_config", "model_kwargs")
_OPENAI_HOSTS = ("api.openai.com", ".openai.azure.com", ".cognitiveservices.azure.com")


@dataclass(frozen=True, slots=True)
class ForeignSettings:
    """Keywords that were meant for chat models of one class, and would be refused by others."""

    kind: type[Any]
    kwargs: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Bound:
    """What the app bound to the model, untouched. ``options`` go to the model's ``bind_tools``
    (without tools: to its ``bind``), ``call`` are the keywords of the invocation, ``structured``
    is what the answer shall be read as."""

    tools: Sequence[Any]
    options: Mapping[str, Any]
    call: Mapping[str, Any]
    structured: Structured | None = None
    foreign: ForeignSettings | None = None
    listed: bool = False
    """Whether a list of tools was bound: an empty one goes out as the model's class sends it."""

    def costly(self) -> dict[str, Any]:
        """What of it a worst case has to reckon with, in plain values. Of the tools only those
        that the provider runs: the others are a part of the prompt."""
        foreign = {} if self.foreign is None else self.foreign.kwargs
        named = {**foreign, **self.options, **self.call}
        given = {name: _plain(value) for name, value in named.items()}
        if self.structured is not None:
            given.setdefault("response_format", _plain(self.structured.schema))
        listed = (*self.tools, *(self.call.get("tools") or ()))
        kinds = [tool for tool in listed if isinstance(tool, Mapping)]
        given["tools"] = [tool for tool in kinds if runs_by_itself(tool)]
        return given


NOTHING_BOUND = Bound((), {}, {})


@dataclass(frozen=True, slots=True)
class Prepared:
    """A worker's call. ``sent`` names what of it a model may refuse."""

    runnable: Runnable[Any, Any]
    kwargs: dict[str, Any]
    sent: frozenset[str]


def prepare(
    model: BaseChatModel,
    call: PlannedCall,
    bound: Bound,
    refused: Collection[str] = (),
    longest: int | None = None,
) -> Prepared:
    """Everything that an attempt is made with. ``refused``: names that this model does not take;
    they are left out, and a limit goes by its other name. ``longest``: tokens of the longest answer
    that it can be asked for, where it has said so.

    Raises:
        RequestError: the model does not take these tools or options, or none of the names of the
            limit that a budget needs.
    """
    options, kwargs = dict(bound.options), dict(bound.call)
    if bound.foreign is not None and isinstance(model, bound.foreign.kind):
        kwargs = {**bound.foreign.kwargs, **kwargs}
    limit = call.max_tokens
    if longest is not None:
        places = (options, kwargs, _fields(model))
        given = [*(own for place in places for own in _limits_in(place))]
        if max([*given, limit or 0]) > longest:
            limit = min(longest, limit or longest)
    told_off = any(name in refused for name in LIMITS)
    if told_off:
        # Whoever set it, it goes by a name that the model takes.
        given = [*_limits_in(options), *_limits_in(kwargs), *_limits_in(_fields(model))]
        limit = min([*given, *([] if limit is None else [limit])], default=None)
        model = _without(model, LIMITS)
    if limit is not None:
        # App and card may ask for less than the router allows, never for more.
        places = (options, kwargs, _fields(model))
        limit = min([limit, *(own for place in places for own in _limits_in(place))])
        options, kwargs = _less(options, LIMITS), _less(kwargs, LIMITS)
        if not _limit_names(model, refused):
            if call.allowance_usd is not None:
                raise RequestError(
                    f"the model refuses the limit of {limit} tokens by every name "
                    f"({', '.join(sorted(set(LIMITS).intersection(refused)))}), and a budget can't "
                    "be kept without it; ask another card, or without a budget"
                )
            limit = None
    if unwanted := OPTIONAL.intersection(refused):
        options, kwargs = _less(options, unwanted), _less(kwargs, unwanted)
        model = _without(model, unwanted)
    temperature = None if "temperature" in refused else call.temperature
    if is_a(model, "ChatOllama"):  # it takes them as its own fields or all in one
        model = _ollama(model, limit, temperature, options, kwargs)
        limit = temperature = None
    if temperature is not None:
        kwargs["temperature"] = temperature
    names = () if limit is None else _limit_names(model, refused)
    if names and not is_a(model, "ChatOpenAI", "AzureChatOpenAI"):
        # One that the model was built with would go out beside it.
        model = _without(model, set(LIMITS).difference(names), inside=LIMITS)
    if bound.structured is not None:
        options = {**bound.structured.parts_for(model).kwargs, **options}
    nothing_listed = bound.listed and not bound.tools and NO_TOOLS.isdisjoint(refused)
    runnable: Any = _bind(model, bound.tools, options, nothing_listed=nothing_listed)
    if limit is not None:
        kwargs |= _limit_kwargs(model, runnable, limit, names, {**options, **kwargs})
    sent = {*_names_in(options), *_names_in(kwargs), *_names_in(_fields(model))}
    if not sent.isdisjoint(LIMITS):
        sent.update(LIMITS)  # a class may give the limit another name than ours
    if getattr(model, "stream_usage", None):
        sent.add("stream_options")
    if nothing_listed:
        sent.update(NO_TOOLS)
    else:
        sent.difference_update(NO_TOOLS)
    if isinstance(runnable, RunnableBinding) and not (runnable.config or runnable.config_factories):
        # It would add the handlers of the running config to those of the call: the same ones, of
        # which some here know what the call costs.
        runnable, kwargs = runnable.bound, {**runnable.kwargs, **kwargs}
    return Prepared(runnable, kwargs, frozenset(sent & (OPTIONAL | NO_TOOLS | set(LIMITS))))


def _bind(
    model: BaseChatModel, tools: Sequence[Any], options: dict[str, Any], *, nothing_listed: bool
) -> Any:
    if nothing_listed:
        if is_a(model, "ChatGoogleGenerativeAI"):  # it refuses a choice when it is called
            options = _less(options, _CHOICE)
        with suppress(Exception):  # what its class does not take is left out
            return model.bind_tools([], **options)
    try:
        if tools:
            return model.bind_tools(list(tools), **options)
        if not options.get("tools"):  # a schema that is asked for as a tool brings its own
            options = _less(options, _OF_TOOLS)
        return model.bind(**options) if options else model
    except Exception as error:  # what a provider's package raises for a bad tool is its affair
        raise RequestError(
            f"{type(model).__name__} does not take what was bound: {type(error).__name__}: {error}"
        ) from error


def _limit_names(model: BaseChatModel, refused: Collection[str]) -> tuple[str, ...]:
    """The names by which a limit goes out at call time, best first."""
    if is_a(model, "ChatOpenAI", "AzureChatOpenAI"):
        names = ("max_completion_tokens", "max_tokens")
        left = tuple(name for name in names if name not in refused)
        # OpenAI's reasoning models know the first only; many other servers read the second only
        # and pass over what they don't know.
        return left[:1] if _is_openai(model) else left
    if is_a(model, "BaseChatOpenAI"):
        names = ("max_tokens", "max_completion_tokens")
        return tuple(name for name in names if name not in refused)[:1]
    name = _field_name(type(model))
    return () if name in refused else (name,)


def _limit_kwargs(
    model: BaseChatModel,
    runnable: Any,
    limit: int,
    names: Sequence[str],
    given: Mapping[str, Any],
) -> dict[str, Any]:
    if not is_a(model, "ChatOpenAI", "AzureChatOpenAI"):
        return dict.fromkeys(names, limit)
    payload = {**model.model_kwargs, **getattr(runnable, "kwargs", {}), **given}  # type: ignore[attr-defined]
    body = given.get("extra_body") or getattr(model, "extra_body", None) or {}
    kept = {key: value for key, value in body.items() if key not in LIMITS}
    responses = getattr(model, "_use_responses_api", None)
    found: dict[str, Any] = {}
    if responses is not None and responses(payload):
        found["max_completion_tokens"] = limit  # the class gives it the Responses API's name
    else:
        if "max_completion_tokens" in names:
            found["max_completion_tokens"] = limit
        if "max_tokens" in names:  # given as a keyword it would be renamed
            kept["max_tokens"] = limit
    return {**found, "extra_body": kept} if kept or body else found


def _is_openai(model: Any) -> bool:
    client = getattr(model, "root_async_client", None)
    url = getattr(client, "base_url", None) or getattr(model, "openai_api_base", None)
    host = urlsplit(str(url or "https://api.openai.com")).hostname or ""
    return host.endswith(_OPENAI_HOSTS)


def _ollama(
    model: Any,
    limit: int | None,
    temperature: float | None,
    options: Mapping[str, Any],
    kwargs: dict[str, Any],
) -> Any:
    wanted = {"num_predict": limit, "temperature": temperature}
    changes = {name: value for name, value in wanted.items() if value is not None}
    given = kwargs.get("options", options.get("options"))
    if changes and isinstance(given, Mapping):  # an empty one stands for all of its fields too
        kwargs["options"] = {**given, **changes}
    elif changes:
        return model.model_copy(update=changes)
    return model


@lru_cache(maxsize=64)
def _field_name(kind: type[BaseChatModel]) -> str:
    """The keyword that limits the answer's length: the class's field, never the field's alias,
    which is for its constructor."""
    return next((name for name in LIMITS if name in kind.model_fields), "max_tokens")


def _fields(model: BaseChatModel) -> dict[str, Any]:
    """The model's own parameters that are set, and what it holds for its provider alone."""
    names = _field_names(type(model))
    return {name: value for name in names if (value := getattr(model, name)) is not None}


@lru_cache(maxsize=64)
def _field_names(kind: type[BaseChatModel]) -> tuple[str, ...]:
    names = (*LIMITS, *OPTIONAL, *_CONTAINERS)
    return tuple(name for name in names if name in kind.model_fields)


def _without(
    model: BaseChatModel, names: Collection[str], *, inside: Collection[str] | None = None
) -> BaseChatModel:
    """The model without some of the parameters that it was built with. ``inside`` those that hold
    others, other names may go."""
    given = _fields(model)
    kept = _less(given, names, inside)
    changes = {name: kept.get(name) for name in given if kept.get(name) != given[name]}
    if "stream_options" in names and getattr(model, "stream_usage", None):
        changes["stream_usage"] = False
    return model.model_copy(update=changes) if changes else model


def _less(
    given: Mapping[str, Any], names: Collection[str], inside: Collection[str] | None = None
) -> dict[str, Any]:
    """Options without some, also inside those that hold others."""
    kept: dict[str, Any] = {}
    for name, value in given.items():
        if name in names:
            continue
        if name in _CONTAINERS and isinstance(value, Mapping):
            value = _less(value, names if inside is None else inside)
        kept[name] = value
    return kept


def _plain(value: Any) -> Any:
    """A schema that is given as a class, by its JSON."""
    return _schema(value) if isinstance(value, type) else value


@lru_cache(maxsize=256)
def _schema(kind: Any) -> Any:
    """Made once: it takes longer than the rest of a call's preparation."""
    try:
        return TypeAdapter(kind).json_schema()
    except PydanticUserError:  # of a kind that has none
        return str(kind)


def _names_in(given: Mapping[str, Any]) -> Iterator[str]:
    yield from given
    for name in _CONTAINERS:
        if isinstance(inner := given.get(name), Mapping):
            yield from _names_in(inner)


def _limits_in(given: Mapping[str, Any]) -> Iterator[int]:
    values = (given.get(name) for name in LIMITS)
    yield from (value for value in values if isinstance(value, int) and value > 0)
    for name in _CONTAINERS:
        if isinstance(inner := given.get(name), Mapping):
            yield from _limits_in(inner)


def longest_answer(limit: int | None, *given: Mapping[str, Any]) -> int | None:
    """The least of the limits (tokens) that an app sets on an answer; None where it sets none."""
    found = [*(own for place in given for own in _limits_in(place))]
    return min(found if limit is None else [limit, *found], default=None)
