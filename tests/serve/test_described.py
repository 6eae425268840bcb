"""What ``/openapi.json`` says holds for every request that schemathesis thinks of."""

from __future__ import annotations

from typing import Any

import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import positive_data_acceptance

from tests.serve.conftest import Serve

ASKED = ["/v1/chat/completions", "/v1/responses", "/v1/xrouter/feedback", "/v1/models/{name}"]
WATCHED = ["/v1/models", "/healthz", "/readyz", "/metrics"]


def test_each_endpoint_does_what_is_said_of_it(serve: Serve) -> None:
    with serve() as url:
        schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
        seen = set()
        for found in schema.get_all_operations():
            operation: Any = found.ok()
            seen.add(operation.path)
            _try_out(operation)
    assert seen == {*ASKED, *WATCHED}


def _try_out(operation: Any) -> None:
    @given(case=operation.as_strategy())
    @settings(max_examples=30, suppress_health_check=list(HealthCheck), derandomize=True)
    def each(case: Any) -> None:
        # Whether a card or a trace of that name exists is nothing that a schema tells.
        told = case.call_and_validate(excluded_checks=[positive_data_acceptance])
        assert told.status_code != 500

    each()
