"""Schemathesis asks the admin routes what their document allows and what it does not, over a desk: never a 5xx.

The running service is left alone here: what these routes do to it would meet other tests (`deployment/test_changes.py`
asks it with every example of the document).
"""

from typing import Any

import pytest

from serving.web import auth, routes

pytestmark = pytest.mark.slow
schemathesis = pytest.importorskip("schemathesis")
KEYS = {role: auth.draw(role, role) for role in ("client", "admin")}  # type: ignore[arg-type]


ACTIONS = ("split", "kill", "promote", "rollback")


def fuzz(operation: Any, desk: Any) -> set[int]:
    """Ask this operation with both keys; the status codes of the admin's."""
    from hypothesis import HealthCheck, Phase, given, settings
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance

    checks, codes = [not_a_server_error, content_type_conformance, response_schema_conformance], set()

    def ask(case: Any) -> None:
        for role, (secret, _) in KEYS.items():
            before = len(desk.controlled)
            response = case.call(headers={"authorization": f"Bearer {secret}"})
            case.validate_response(response, checks=checks)
            if role == "client":
                assert (response.status_code, len(desk.controlled)) == (403, before)
            else:
                codes.add(response.status_code)

    quick = settings(
        max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), database=None,
        phases=[Phase.explicit, Phase.generate],
    )  # fmt: skip
    given(case=operation.as_strategy())(quick(ask))()
    return codes


def test_no_admin_request_of_the_documents_making_is_our_fault_or_gets_by_without_the_role(web: Any) -> None:
    desk = web.desk(web.seven, keys=[key for _, key in KEYS.values()])
    schema = schemathesis.openapi.from_asgi("/openapi.json", routes.create(desk))
    operations = [result.ok() for result in schema.get_all_operations()]
    tried = {one.label: fuzz(one, desk) for one in operations if one.path.startswith("/v1/admin")}
    assert set(tried) == {"GET /v1/admin/state", *(f"POST /v1/admin/{name}" for name in ACTIONS)}
    assert all(200 in codes for codes in tried.values()), tried
