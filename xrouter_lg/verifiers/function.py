"""A verifier of the user's own: any function by its dotted path."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, ClassVar

from xrouter_lg.verifiers.base import Verdict, Verifier, VerifierConfigError


class Function(Verifier):
    """``path: package.module:function``. The function takes what it names of ``answer``,
    ``reference`` and ``meta``, and the ``arguments`` of the spec; it returns a number in [0, 1],
    a bool, None, or a ``Verdict``. It carries no cases: give a good and a bad one in the spec.
    """

    name: ClassVar[str] = "function"

    def __init__(
        self, *, path: str, arguments: Mapping[str, Any] | None = None, **options: Any
    ) -> None:
        super().__init__(**options)
        self.path = path
        self._function = _load(path)
        self._arguments = dict(arguments or {})
        self._wanted = _wanted(self._function, path, self._arguments)

    def verify(self, answer: str, reference: Any, meta: Mapping[str, Any]) -> Verdict:
        offered = {"answer": answer, "reference": reference, "meta": meta}
        named = {name: offered[name] for name in self._wanted}
        result = self._function(**named, **self._arguments)
        if isinstance(result, Verdict):
            return result
        if result is None:
            return Verdict(None, f"{self.path} returned None")
        return Verdict(float(result))


def _load(path: str) -> Callable[..., Any]:
    module_name, _, attribute = path.partition(":")
    if not module_name or not attribute:
        raise VerifierConfigError(f"path is {path!r}; write it as package.module:function")
    try:
        found: Any = import_module(module_name)
        for name in attribute.split("."):
            found = getattr(found, name)
    except (ImportError, AttributeError) as error:
        raise VerifierConfigError(f"path {path!r} leads nowhere: {error}") from error
    if not callable(found) or inspect.iscoroutinefunction(found):
        raise VerifierConfigError(f"path {path!r} is no plain function")
    function: Callable[..., Any] = found
    return function


def _wanted(function: Callable[..., Any], path: str, arguments: Mapping[str, Any]) -> list[str]:
    parameters = inspect.signature(function).parameters.values()
    offered = ("answer", "reference", "meta")
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return list(offered)
    names = {p.name for p in parameters}
    unknown = set(arguments) - names
    missing = {
        p.name
        for p in parameters
        if p.default is p.empty
        and p.kind is not p.VAR_POSITIONAL
        and p.name not in offered
        and p.name not in arguments
    }
    if unknown or missing:
        raise VerifierConfigError(
            f"{path}: unknown arguments {sorted(unknown)}, missing ones {sorted(missing)}; "
            f"it may name {', '.join(offered)} and what `arguments` gives"
        )
    return [name for name in offered if name in names]
