"""The OpenAPI document: bodies that the routes read themselves, and for each an example that works as it is."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from serving.web import admin, api, chat, examples
from serving.web.asked import Desk

KEY = (
    "An API key; x-api-key is read too. Routes below /v1/admin/ want one with the role admin: the operator's, or "
    "one of `python -m serving key NAME --admin`."
)
REF = "#/components/schemas/{model}"
BODIES: dict[str, type[BaseModel]] = {
    "/v1/predict": api.PredictRequest,
    "/v1/feedback": api.FeedbackRequest,
    "/v1/chat/completions": chat.ChatRequest,
    "/v1/admin/split": admin.SplitRequest,
    "/v1/admin/kill": admin.KillRequest,
    "/v1/admin/promote": admin.PromoteRequest,
}

BARE = ("/v1/admin/promote",)  # works without a body too


def of(app: FastAPI, desk: Desk) -> dict[str, Any]:
    """The document of the application for what is served now."""
    found = get_openapi(title=app.title, version="1", routes=app.routes, description=_about())
    _, schemas = models_json_schema([(body, "validation") for body in BODIES.values()], ref_template=REF)
    parts = found["components"]
    parts["schemas"].update(schemas["$defs"])
    parts["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer", "description": KEY}}
    for path, operations in found["paths"].items():
        wanted = _security(path, desk)
        for operation in operations.values() if wanted is not None else ():
            operation["security"] = wanted
    for path, example in bodies(desk).items():
        schema = {"$ref": REF.format(model=BODIES[path].__name__)}
        content: dict[str, Any] = {"application/json": {"schema": schema, "example": example}}
        if path == "/v1/predict":
            content["multipart/form-data"] = {"schema": schema}
        found["paths"][path]["post"]["requestBody"] = {"required": path not in BARE, "content": content}
    return found


def _security(path: str, desk: Desk) -> list[dict[str, list[str]]] | None:
    """What a route asks for; None: nothing. A role as OpenAPI 3.1 names it beside a scheme that has no scopes."""
    if path.startswith("/v1/admin/"):
        return [{"key": ["admin"]}]
    if path.startswith("/v1/"):
        return [{}, {"key": []}] if desk.keys.open else [{"key": []}]
    return None


def bodies(desk: Desk) -> dict[str, dict[str, Any]]:
    """An example of each route's body that works with what is served now."""
    predict = desk.example()
    first = desk.models()[0]
    return {
        "/v1/predict": predict,
        "/v1/feedback": {"request_id": "3f2a", "reward": 1.0, "label": "seven"},
        "/v1/chat/completions": examples.chat_body(first["id"], predict.get("text", "what is this ?")),
        "/v1/admin/split": {"shares": {first["arm"]: 1.0}},
        "/v1/admin/kill": {"arm": "challenger"},
        "/v1/admin/promote": {"arm": "challenger"},
    }


def _about() -> str:
    return "A distilled student, and the teacher behind it. Errors are RFC 9457 problem documents; go by their `code`."
