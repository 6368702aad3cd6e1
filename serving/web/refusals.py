"""Every error leaves as a problem document: what was refused, what nobody could answer, and what is our own fault."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.bundle.answer import BundleError
from serving.fallback.cascade import UnansweredError
from serving.seams import problems
from serving.seams.problems import KINDS, PROBLEM_TYPE, Code, Problem, Refusal
from serving.web.inputs import request_id

log = logging.getLogger(__name__)

BY_STATUS: dict[int, Code] = {
    400: "invalid_json", 404: "not_found", 405: "method_not_allowed", 413: "body_too_large",
}  # fmt: skip


def documented(*codes: Code) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that may refuse with these codes; 500 is always there."""
    statuses = sorted({KINDS[code][0] for code in (*codes, "internal")})
    return {status: {"model": Problem, "content": {PROBLEM_TYPE: {}}} for status in statuses}


def reply(request: Request, code: Code, detail: str, status: int | None = None, **more: Any) -> JSONResponse:
    """A problem document as the answer to this request."""
    document = problems.problem(code, detail, status, request_id=request_id(request), **more)
    return JSONResponse(document, document["status"], media_type=PROBLEM_TYPE)


def install(app: FastAPI) -> None:
    """Let the application answer every error so."""

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        found = list(error.errors())
        if any(one["type"] == "json_invalid" for one in found):
            return reply(request, "invalid_json", "The body cannot be parsed as JSON.", errors=problems.flaws(found))
        listed = problems.flaws(found)
        return reply(request, "invalid_request", f"Wrong: {', '.join(flaw.where for flaw in listed)}.", errors=listed)

    @app.exception_handler(BundleError)
    async def unreadable(request: Request, error: BundleError) -> JSONResponse:
        return reply(request, "unreadable_input", str(error))

    @app.exception_handler(UnansweredError)
    async def unanswered(request: Request, error: UnansweredError) -> JSONResponse:
        more: dict[str, Any] = {"reason": error.student, "student": error.student, "teacher": error.teacher}
        return reply(request, "unanswered", str(error), **more)

    @app.exception_handler(Refusal)
    async def refused(request: Request, error: Refusal) -> JSONResponse:
        answer = reply(request, error.code, error.detail)
        answer.headers.update(error.headers)
        return answer

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        code = BY_STATUS.get(error.status_code, "http_error")
        answer = reply(request, code, str(error.detail), error.status_code)
        answer.headers.update(error.headers or {})
        return answer

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> JSONResponse:
        log.error("a request failed", exc_info=error)
        return reply(request, "internal", "The error is in the server's log.")


class BodyLimit:
    """ASGI middleware that refuses a body beyond `bytes_max` as soon as it is seen, announced or not."""

    def __init__(self, app: ASGIApp, bytes_max: int) -> None:
        self.app, self.bytes_max = app, bytes_max

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on while its body is small enough."""
        size = 0

        async def counted() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self.bytes_max:
                raise HTTPException(413, f"got more than {self.bytes_max} bytes, expected at most that many")
            return message

        await self.app(scope, counted, send)
