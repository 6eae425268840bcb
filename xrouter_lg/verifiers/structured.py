"""Verifiers of structured answers: JSON that fits a schema."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from xrouter_lg.extras import need
from xrouter_lg.verifiers.base import (
    Case,
    Unverifiable,
    Verdict,
    Verifier,
    VerifierConfigError,
    extract_part,
)

_POINT = {
    "type": "object",
    "properties": {"x": {"type": "number"}},
    "required": ["x"],
    "additionalProperties": False,
}


class JsonSchema(Verifier):
    """The answer is JSON (bare or in a code fence) that fits a schema, and nothing but it.

    The schema is the argument (a mapping or the path of a JSON file), else ``meta["schema"]``.
    With ``equals_reference`` the value must equal the reference too. Remote ``$ref`` are never
    fetched: they make the verdict None.
    """

    name: ClassVar[str] = "json_schema"
    cases: ClassVar[Sequence[Case]] = (
        Case('{"x": 1}', {"x": 1}, meta={"schema": _POINT}),
        Case('```json\n{"x": 1.0}\n```', {"x": 1}, meta={"schema": _POINT}),
        Case('{"x": "1"}', {"x": 1}, good=False, meta={"schema": _POINT}),
        Case('{"x": 1', {"x": 1}, good=False, meta={"schema": _POINT}),
        Case("x is 1", {"x": 1}, good=False, meta={"schema": _POINT}),
    )

    def __init__(
        self,
        *,
        schema: Mapping[str, Any] | str | None = None,
        equals_reference: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.equals_reference = equals_reference
        self._validator_class, self._registry = _library()
        if isinstance(schema, str):
            try:
                schema = json.loads(Path(schema).read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise VerifierConfigError(f"schema file {schema!r}: {error}") from error
        self.schema = schema
        if schema is not None:
            try:
                self._validator_class.check_schema(schema)
            except Exception as error:
                raise VerifierConfigError(f"the schema is no JSON schema: {error}") from error

    def default_cases(self) -> Sequence[Case]:
        return self.cases if self.schema is None else ()

    def verify(self, answer: str, reference: Any, meta: Mapping[str, Any]) -> Verdict:
        schema = self.schema if self.schema is not None else meta.get("schema")
        if isinstance(schema, str):
            schema = json.loads(schema)
        if schema is None:
            raise Unverifiable('there is no schema: neither the argument nor meta["schema"]')
        try:
            self._validator_class.check_schema(schema)
        except Exception as error:
            raise Unverifiable(f"the schema is no JSON schema: {error}") from error
        try:
            value = json.loads(extract_part(answer, "code") or "", parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            return Verdict(0.0, f"not JSON: {error}")
        validator = self._validator_class(schema, registry=self._registry)
        problem = next(iter(validator.iter_errors(value)), None)
        if problem is not None:
            place = "/".join(str(step) for step in problem.absolute_path) or "the top"
            return Verdict(0.0, f"at {place}: {problem.message}")
        if self.equals_reference:
            if isinstance(reference, str):
                reference = json.loads(reference)
            return Verdict.of(value == reference, "fits the schema")
        return Verdict(1.0)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _library() -> tuple[Any, Any]:
    validator = need("jsonschema", "the json_schema verifier").Draft202012Validator
    from referencing import Registry  # jsonschema brings it

    # An empty registry never retrieves; jsonschema's own default would fetch over the network.
    return validator, Registry()
