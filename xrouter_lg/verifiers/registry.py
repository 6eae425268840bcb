"""Verifiers by name, from YAML."""

from __future__ import annotations

import fnmatch
import hashlib
import inspect
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

from xrouter_lg.json_text import shown
from xrouter_lg.plugins import VERIFIERS, plugin, plugin_names
from xrouter_lg.verifiers.base import Case, CheckReport, Verifier, VerifierConfigError
from xrouter_lg.yaml_text import read_yaml

_BUILT_IN = {
    "math": "xrouter_lg.verifiers.math:Math",
    "exact": "xrouter_lg.verifiers.text:Exact",
    "normalised": "xrouter_lg.verifiers.text:NormalisedMatch",
    "multiple_choice": "xrouter_lg.verifiers.text:MultipleChoice",
    "regex": "xrouter_lg.verifiers.text:RegexMatch",
    "json_schema": "xrouter_lg.verifiers.structured:JsonSchema",
    "unit_tests": "xrouter_lg.verifiers.unit_tests:UnitTests",
    "judge": "xrouter_lg.verifiers.judge:Judge",
    "function": "xrouter_lg.verifiers.function:Function",
    "feedback": "xrouter_lg.verifiers.feedback:Feedback",
}
"""Name to class; a module loads, and asks for its packages, when its name is used."""

_REGISTERED: dict[str, type[Verifier]] = {}


def register(kind: type[Verifier]) -> type[Verifier]:
    """Class decorator: the verifier can be named in YAML from now on."""
    name = kind.name
    if name in _BUILT_IN or _REGISTERED.get(name, kind) is not kind:
        raise VerifierConfigError(f"a verifier named {name!r} exists already; choose another name")
    _REGISTERED[name] = kind
    return kind


def names() -> list[str]:
    """Every name that a spec may use."""
    return sorted({*_BUILT_IN, *_REGISTERED, *plugin_names(VERIFIERS)})


def needs_arguments(name: str) -> bool:
    """Whether a verifier can't be built from its name alone."""
    parameters = inspect.signature(_class(name)).parameters.values()
    return any(p.default is p.empty and p.kind is p.KEYWORD_ONLY for p in parameters)


def _class(name: Any) -> type[Verifier]:
    if name in _REGISTERED:
        return _REGISTERED[name]
    if name not in _BUILT_IN and (brought := plugin(VERIFIERS, str(name))) is not None:
        return _brought(brought)
    if name not in _BUILT_IN:
        raise VerifierConfigError(
            f"no verifier is named {shown(name)}; there are {', '.join(names())}"
        )
    module, _, attribute = _BUILT_IN[name].partition(":")
    kind: type[Verifier] = getattr(import_module(module), attribute)
    return kind


def _brought(entry: EntryPoint) -> type[Verifier]:
    """The class that another installed package brings."""
    where = f"verifier {entry.name!r} of {entry.value}"
    try:
        kind = entry.load()
    except Exception as error:  # what is in that package is its own affair
        raise VerifierConfigError(f"{where} can't be loaded: {error}") from error
    if not (isinstance(kind, type) and issubclass(kind, Verifier)):
        raise VerifierConfigError(f"{where} is {kind!r}, not a subclass of Verifier")
    return kind


def build(spec: str | Mapping[str, Any]) -> Verifier:
    """A verifier from its name or a mapping: ``verifier`` (the name), arguments, ``good``, ``bad``.

    Raises:
        VerifierConfigError: unknown name, unknown or wrong argument, malformed case.
        MissingExtraError: the verifier's package is not installed.
    """
    arguments: dict[str, Any] = {"verifier": spec} if isinstance(spec, str) else dict(spec)
    name = arguments.pop("verifier", None)
    if not isinstance(name, str):
        raise VerifierConfigError(
            f"`verifier` is {shown(name)}; it must be a name: {', '.join(names())}"
        )
    kind = _class(name)
    cases = [
        _case(name, case, good)
        for key, good in (("good", True), ("bad", False))
        for case in _cases(name, key, arguments.pop(key, None))
    ]
    if cases:
        arguments["cases"] = cases
    known = _argument_names(kind)
    unknown = sorted(map(str, set(arguments) - known - {"cases"}))
    if unknown:
        allowed = ", ".join(sorted(known - {"cases"}))
        raise VerifierConfigError(f"{name}: unknown {', '.join(unknown)}; it takes {allowed}")
    try:
        return kind(**arguments)
    except TypeError as error:
        raise VerifierConfigError(f"{name}: {error}") from error
    except VerifierConfigError as error:
        raise VerifierConfigError(f"{name}: {error}") from error


def _argument_names(kind: type[Verifier]) -> set[str]:
    found: set[str] = set()
    for base in kind.__mro__:
        if "__init__" in vars(base) and base is not object:
            parameters = inspect.signature(vars(base)["__init__"]).parameters.values()
            found |= {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
    return found


def _cases(name: str, key: str, given: Any) -> Sequence[Any]:
    if given is None:
        return ()
    if not isinstance(given, Sequence) or isinstance(given, str):
        raise VerifierConfigError(
            f"{name}: `{key}` is {shown(given)}; it must be a list of cases such as "
            "[{answer: ..., reference: ...}]"
        )
    return given


def _case(name: str, case: Any, good: bool) -> Case:
    fields = {"answer", "reference", "meta"}
    if not isinstance(case, Mapping) or "answer" not in case or not set(case) <= fields:
        raise VerifierConfigError(
            f"{name}: case {shown(case)} is not {{answer: ..., reference: ..., meta: ...}}"
        )
    if not isinstance(case.get("meta") or {}, Mapping):
        raise VerifierConfigError(
            f"{name}: a case's `meta` is {shown(case['meta'])}; it must be a mapping"
        )
    return Case(str(case["answer"]), case.get("reference"), good, case.get("meta") or {})


def _are_texts(values: Any) -> bool:
    return isinstance(values, Sequence) and all(isinstance(value, str) for value in values)


def _digest(arguments: Mapping[str, Any]) -> str:
    # Known cases prove a verifier; they change no verdict.
    own = {name: value for name, value in arguments.items() if name not in ("good", "bad")}
    data = json.dumps(own, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(data.encode("utf-8", "surrogatepass")).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Rule:
    """A verifier and the prompts it is for: shell patterns on ``source/task``, any of them."""

    verifier: Verifier
    where: tuple[str, ...]
    digest: str = ""
    """Of the verifier's settings: with others its verdicts on the same answers are others."""

    def fits(self, source: str, task: str) -> bool:
        return any(fnmatch.fnmatchcase(f"{source}/{task}", pattern) for pattern in self.where)


class Suite:
    """The verifiers of a data set, first fitting rule first.

    YAML: a list of specs, or ``verifiers:`` with such a list. ``where`` (a pattern such as
    ``zeroeval/math*`` or a list of them) restricts a spec; left out it fits everything.
    """

    def __init__(self, rules: Iterable[Rule]) -> None:
        self.rules = tuple(rules)

    @classmethod
    def from_yaml(cls, path: str | Path) -> Suite:
        """Raises: VerifierConfigError naming the file for whatever is wrong with it."""
        data = read_yaml(
            Path(path),
            "the verifier file",
            VerifierConfigError,
            missing="name another one, or write one that begins with `verifiers:`",
        )
        try:
            return cls.from_specs(data)
        except VerifierConfigError as error:
            raise VerifierConfigError(f"{path}: {error}") from error

    @classmethod
    def from_specs(cls, data: Any) -> Suite:
        if isinstance(data, Mapping) and "verifiers" in data:
            data = data["verifiers"]
        specs = [data] if isinstance(data, str | Mapping) else data
        if not isinstance(specs, Sequence) or not specs:
            raise VerifierConfigError(
                f"expected a list of verifiers such as [{{verifier: math}}], got {shown(data)}"
            )
        rules: list[Rule] = []
        for number, spec in enumerate(specs, 1):
            if not isinstance(spec, str | Mapping):
                raise VerifierConfigError(
                    f"entry {number} is {shown(spec)}, not a name or a mapping"
                )
            arguments = {"verifier": spec} if isinstance(spec, str) else dict(spec)
            where = arguments.pop("where", "*")
            patterns = (where,) if isinstance(where, str) else where
            try:
                if not _are_texts(patterns):
                    raise VerifierConfigError(
                        f"`where` is {shown(where)}; it must be a pattern such as 'zeroeval/math*' "
                        "or a list of them"
                    )
                rules.append(Rule(build(arguments), tuple(patterns), _digest(arguments)))
            except VerifierConfigError as error:
                raise VerifierConfigError(f"entry {number}: {error}") from error
        return cls(rules)

    def rule_for(self, source: str, task: str) -> Rule | None:
        return next((rule for rule in self.rules if rule.fits(source, task)), None)

    def verifier_for(self, source: str, task: str) -> Verifier | None:
        rule = self.rule_for(source, task)
        return None if rule is None else rule.verifier

    def check(self) -> list[CheckReport]:
        """Every verifier on its known cases; call before it scores anything."""
        return [rule.verifier.check() for rule in self.rules]

    def close(self) -> None:
        for rule in self.rules:
            rule.verifier.close()

    def __enter__(self) -> Suite:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
