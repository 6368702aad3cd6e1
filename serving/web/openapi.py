"""The OpenAPI document: bodies that the routes read themselves, and for each an example that works as it is."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from serving.web import admin, api, chat, examples
from serving.web.asked import Desk

REF = "#/components/schemas/{model}"
BODIES: dict[str, type[BaseModel]] = {
    "/v1/predict": api.PredictRequest,
    "/v1/feedback": api.FeedbackRequest,
    "/v1/chat/completions": chat.ChatRequest,
    "/v1/admin/split": admin.SplitRequest,
    "/v1/admin/kill": admin.KillRequest,
}


def of(app: FastAPI, desk: Desk) -> dict[str, Any]:
    """The document of the application for what is served now."""
    found = get_openapi(title=app.title, version="1", routes=app.routes, description=_about())
    _, schemas = models_json_schema([(body, "validation") for body in BODIES.values()], ref_template=REF)
    parts = found["components"]
    parts["schemas"].update(schemas["$defs"])
    parts["securitySchemes"] = {
        "key": {"type": "http", "scheme": "bearer", "description": "An API key; x-api-key is read too."}
    }
    for path, example in bodies(desk).items():
        schema = {"$ref": REF.format(model=BODIES[path].__name__)}
        content: dict[str, Any] = {"application/json": {"schema": schema, "example": example}}
        if path == "/v1/predict":
            content["multipart/form-data"] = {"schema": schema}
        operation = found["paths"][path]["post"]
        operation["requestBody"] = {"required": True, "content": content}
        operation["security"] = [{"key": []}] if path.startswith("/v1/admin") else [{}, {"key": []}]
    return found


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
    }


def _about() -> str:
    return "A distilled student, and the teacher behind it. Errors are RFC 9457 problem documents; go by their `code`."
