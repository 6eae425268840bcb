"""``XRouterMiddleware``: the router inside ``langchain.agents.create_agent``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Literal, NotRequired

from langchain.agents.middleware import AgentMiddleware, AgentState, ModelRequest, ModelResponse
from langchain.agents.middleware.types import ExtendedModelResponse
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langgraph.types import Command
from typing_extensions import TypedDict

from xrouter_lg.chat.model import ChatXRouter
from xrouter_lg.errors import ConfigurationError
from xrouter_lg.tracing.runs.extract import RECORD_KEY

_TOLD = ("route", "reason", "policy", "policy_version", "propensity", "cost_usd", "run_id")
_KEPT = 512


class RouteInState(TypedDict):
    """What an agent's state says of its latest model call; the record is in the message."""

    route: str | None
    reason: str
    policy: str
    policy_version: str
    propensity: float | None
    cost_usd: str | None
    run_id: str | None


def _latest(before: RouteInState | None, after: RouteInState | None) -> RouteInState | None:
    """Of two that are told in one step, by layers or agents side by side, the later one: LangGraph
    refuses the step where nobody says which."""
    return after


class RoutedAgentState(AgentState[Any]):
    """The agent's state with the latest route."""

    # None is never told: a type that can't be called is what keeps the key away until there is one.
    xrouter: NotRequired[Annotated[RouteInState | None, _latest]]


class XRouterMiddleware(AgentMiddleware[RoutedAgentState, Any, Any]):
    """Lets the router answer in the place of an agent's own model.

    ``create_agent("openai:gpt-5-mini", tools, middleware=[XRouterMiddleware(pool)])``. ``pool`` is
    what :class:`~xrouter_lg.chat.model.ChatXRouter` takes, or such a model; ``options`` are that
    class's. ``per="run"`` decides once: the model that called the tools reads their results, until
    the user asks again or another agent takes over. ``per="step"`` asks the policy at every call.

    Whoever stands before it in the list and puts another model in the agent's place within a model
    call (``ModelFallbackMiddleware``) is obeyed. ``model_settings`` of the request were meant for
    the request's model: they reach only cards of that model's class. The state gets the latest
    route under ``xrouter``.

    Raises:
        ConfigurationError: a bad option, pool or policy.
    """

    state_schema = RoutedAgentState

    def __init__(
        self, pool: Any = None, *, per: Literal["run", "step"] = "run", **options: Any
    ) -> None:
        super().__init__()
        if per not in ("run", "step"):
            raise ConfigurationError(f"per is {per!r}; it must be 'run' or 'step'")
        if isinstance(pool, ChatXRouter):
            if options:
                raise ConfigurationError(
                    f"{', '.join(options)} beside a ChatXRouter, which has its own options"
                )
            model = pool
        else:
            model = ChatXRouter(pool, **options)
        self.per = per
        self.model = model.model_copy(update={"per_step": True}) if per == "step" else model
        self._begun: dict[int, tuple[Any, BaseChatModel]] = {}
        """The model that a call began with, by the state that it is made for, which is kept so that
        its id is not given again. One that has succeeded is gone."""

    def wrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], ModelResponse[Any]],
    ) -> Any:
        routed = self._routed(request)
        if routed is None:
            return handler(request)
        return self._noted(handler(routed), request)

    async def awrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]],
    ) -> Any:
        routed = self._routed(request)
        if routed is None:
            return await handler(request)
        return self._noted(await handler(routed), request)

    def _routed(self, request: ModelRequest[Any]) -> ModelRequest[Any] | None:
        """The request with the router as its model; None where somebody has put another model in
        the place of the one that this call began with."""
        begun = self._begun.get(id(request.state))
        if begun is None:
            if len(self._begun) >= _KEPT:
                self._begun.pop(next(iter(self._begun)), None)
            self._begun[id(request.state)] = request.state, request.model
        elif begun[1] is not request.model:
            return None
        model = self.model
        if isinstance(request.model, ChatXRouter):
            return request.override(model=model)
        model = model.with_settings_of(type(request.model), request.model_settings)
        return request.override(model=model, model_settings={})

    def _noted(
        self, response: ModelResponse[Any], request: ModelRequest[Any]
    ) -> ModelResponse[Any] | ExtendedModelResponse[Any]:
        """The response with its route for the agent's state; without one where another model has
        answered."""
        self._begun.pop(id(request.state), None)
        for message in response.result:
            record = message.response_metadata.get(RECORD_KEY)
            if isinstance(message, AIMessage) and record:
                told = {name: record.get(name) for name in _TOLD}
                return ExtendedModelResponse(response, Command(update={RECORD_KEY: told}))
        return response
