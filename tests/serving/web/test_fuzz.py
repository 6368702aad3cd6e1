"""Schemathesis asks the running service what its OpenAPI document allows and what it does not: never a 5xx."""

from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.slow
schemathesis = pytest.importorskip("schemathesis")


def test_no_request_of_the_documents_making_is_our_fault(admin: httpx.Client) -> None:
    from hypothesis import HealthCheck, Phase, settings
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import content_type_conformance

    document = admin.get("/openapi.json").json()
    for path in [path for path in document["paths"] if path.startswith("/v1/admin")]:
        del document["paths"][path]  # their effects would meet those of other tests
    schema = schemathesis.openapi.from_dict(document)
    tried = []
    for result in schema.get_all_operations():
        operation = result.ok()

        def ask(case: Any) -> None:
            response = case.call(base_url=str(admin.base_url), headers=dict(admin.headers), timeout=30)
            case.validate_response(response, checks=[not_a_server_error, content_type_conformance])

        quick = settings(
            max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), database=None,
            phases=[Phase.explicit, Phase.generate],
        )  # fmt: skip
        from hypothesis import given

        given(case=operation.as_strategy())(quick(ask))()
        tried.append(operation.label)
    assert "POST /v1/predict" in tried and "POST /v1/chat/completions" in tried
