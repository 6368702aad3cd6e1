"""The gateway's HTTP routes over whatever answers behind them; every error leaves as a problem document."""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Protocol

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving import api
from serving.bundle.answer import BundleError
from serving.cascade import Outcome, UnansweredError

log = logging.getLogger(__name__)

REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}\Z")
BY_STATUS: dict[int, api.Code] = {
    400: "invalid_json", 404: "not_found", 405: "method_not_allowed", 413: "body_too_large",
}  # fmt: skip


class Desk(Protocol):
    """What answers behind the routes."""

    images_max: int
    frames_max: int
    hears: bool
    allow_fault_injection: bool

    async def predict(self, item: dict[str, Any], delay_ms: float) -> Outcome:
        """Raises BundleError for what no model can read, UnansweredError when student and teacher both fail in time."""

    async def warm(self) -> None:
        """Get ready; the server lets no request in before it returns."""

    def models(self) -> list[dict[str, Any]]:
        """Name, version, arm and more of the models that can answer, the student first."""


def create(desk: Desk) -> FastAPI:
    """The application: `/v1/predict`, `/v1/models`, `/healthz`, `/readyz`, `/openapi.json`; no pages (CDN)."""

    @asynccontextmanager
    async def warmed(app: FastAPI) -> AsyncIterator[None]:
        await desk.warm()
        yield

    app = FastAPI(title="raydistill", docs_url=None, redoc_url=None, lifespan=warmed)
    _errors(app)
    app.add_middleware(BodyLimit)
    errors: dict[int | str, dict[str, Any]] = {
        status: {"model": api.Problem, "content": {api.PROBLEM_TYPE: {}}} for status in (400, 413, 422, 503)
    }

    @app.post("/v1/predict", response_model=api.PredictResponse, response_model_exclude_unset=True, responses=errors)
    async def predict(body: api.PredictRequest, request: Request) -> api.PredictResponse:
        """Answer one question, or classify one text."""
        started = time.perf_counter()
        if len(body.images) > desk.images_max:
            raise BundleError(f"images: got {len(body.images)}, expected at most {desk.images_max}")
        if body.audio is not None and not desk.hears:
            raise BundleError("audio: got a sound, expected none")
        if len(body.video) > desk.frames_max:
            raise BundleError(f"video: got {len(body.video)} frames, expected at most {desk.frames_max}")
        outcome = await desk.predict(body.item(), _delay_ms(request, desk))
        return _response(outcome, desk, _request_id(request), started)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """The models that can answer, the student first."""
        return {"data": desk.models()}

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """The process is alive."""
        return {"status": "ok"}

    @app.get("/readyz")
    async def readyz() -> dict[str, str]:
        """The student is loaded and has answered once; before that no request is let in."""
        return {"status": "ready"}

    return app


def _response(outcome: Outcome, desk: Desk, request_id: str, started: float) -> api.PredictResponse:
    student, *others = desk.models()
    who = others[0] if outcome.fell_back else student
    answer = outcome.answer
    classes = {} if answer.probabilities is None else {"label": answer.text, "probabilities": answer.probabilities}
    return api.PredictResponse(
        request_id=request_id, text=answer.text, confidence=min(answer.confidence, 1.0), **classes,
        model=who["id"], version=who["version"], arm="student", fell_back=outcome.fell_back, reason=outcome.reason,
        latency_ms=round((time.perf_counter() - started) * 1000, 3),
    )  # fmt: skip


def _delay_ms(request: Request, desk: Desk) -> float:
    """The fault to inject, 0 unless this deployment allows it. Raises BundleError for what is no delay."""
    value = request.headers.get(api.DELAY_HEADER) if desk.allow_fault_injection else None
    if value is None:
        return 0.0
    if not re.fullmatch(r"\d{1,5}", value) or float(value) > api.DELAY_MS_MAX:
        limit = f"whole milliseconds up to {api.DELAY_MS_MAX:.0f}"
        raise BundleError(f"{api.DELAY_HEADER}: got {value!r:.80}, expected {limit}")
    return float(value)


def _request_id(request: Request) -> str:
    """The caller's own id when it is printable and short, else a new one; the same for the whole request."""
    if not hasattr(request.state, "request_id"):
        given = request.headers.get(api.REQUEST_ID_HEADER, "")
        request.state.request_id = given if REQUEST_ID.match(given) else uuid.uuid4().hex
    return str(request.state.request_id)


def _reply(request: Request, code: api.Code, status: int, detail: str, **more: Any) -> JSONResponse:
    document = api.problem(code, status, detail, request_id=_request_id(request), **more)
    return JSONResponse(document, status, media_type=api.PROBLEM_TYPE)


def _errors(app: FastAPI) -> None:
    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        found = list(error.errors())
        if any(one["type"] == "json_invalid" for one in found):
            return _reply(request, "invalid_json", 400, "The body cannot be parsed as JSON.", errors=api.flaws(found))
        where = ", ".join(flaw.where for flaw in api.flaws(found))
        return _reply(request, "invalid_request", 422, f"Wrong: {where}.", errors=api.flaws(found))

    @app.exception_handler(BundleError)
    async def unreadable(request: Request, error: BundleError) -> JSONResponse:
        return _reply(request, "unreadable_input", 422, str(error))

    @app.exception_handler(UnansweredError)
    async def unanswered(request: Request, error: UnansweredError) -> JSONResponse:
        more = {"reason": error.student, "student": error.student, "teacher": error.teacher}
        return _reply(request, "unanswered", 503, str(error), **more)

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        reply = _reply(request, BY_STATUS.get(error.status_code, "http_error"), error.status_code, str(error.detail))
        reply.headers.update(error.headers or {})
        return reply

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> JSONResponse:
        log.error("a request failed", exc_info=error)
        return _reply(request, "internal", 500, "The error is in the server's log.")


class BodyLimit:
    """ASGI middleware that refuses a body beyond the limit as soon as it is seen, announced or not."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on while its body is small enough."""
        size = 0

        async def counted() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > api.BODY_BYTES_MAX:
                raise HTTPException(413, f"got more than {api.BODY_BYTES_MAX} bytes, expected at most that many")
            return message

        await self.app(scope, counted, send)
