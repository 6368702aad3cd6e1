"""Errors over HTTP as RFC 9457 problem documents with a stable `code`, and the refusals that are raised on purpose."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel

PROBLEM_TYPE = "application/problem+json"

Code = Literal[
    "invalid_json", "invalid_request", "unreadable_input", "unsupported_media", "body_too_large", "unauthorized",
    "forbidden", "not_found", "method_not_allowed", "conflict", "refused_bundle", "rate_limited", "overloaded",
    "http_error", "unanswered", "internal",
]  # fmt: skip


class Flaw(BaseModel):
    """One thing that is wrong with a request."""

    where: str
    got: str
    expected: str


class Problem(BaseModel):
    """RFC 9457 problem document. `code` is what programs go by; `reason`, `student` and `teacher` say why there is no
    answer."""

    type: str
    title: str
    status: int
    detail: str
    code: Code
    request_id: str | None = None
    errors: list[Flaw] | None = None
    reason: str | None = None
    student: str | None = None
    teacher: str | None = None


# Code -> status, title.
KINDS: dict[Code, tuple[int, str]] = {
    "invalid_json": (400, "The body is not JSON."),
    "invalid_request": (422, "The request does not have the expected form."),
    "unreadable_input": (422, "The model cannot read this input."),
    "unsupported_media": (415, "The body is sent as something else than this route reads."),
    "body_too_large": (413, "The body is too large."),
    "unauthorized": (401, "This route needs a key."),
    "forbidden": (403, "This key may not do that."),
    "not_found": (404, "There is nothing at this address."),
    "method_not_allowed": (405, "This address does not take this method."),
    "conflict": (409, "Something else changed it meanwhile, or it cannot be done now."),
    "refused_bundle": (409, "The new model is not fit to serve; the old one still is."),
    "rate_limited": (429, "This key has asked too often."),
    "overloaded": (429, "There are more requests than can be answered in time."),
    "http_error": (400, "The request cannot be handled."),
    "unanswered": (503, "Neither the student nor the teacher answered in time."),
    "internal": (500, "The server failed."),
}


# What reading and letting in a request with a body may refuse it with.
ASKING: tuple[Code, ...] = (
    "invalid_json", "invalid_request", "body_too_large", "unsupported_media", "unauthorized", "rate_limited",
)  # fmt: skip
ANSWERING: tuple[Code, ...] = (*ASKING, "unreadable_input", "overloaded", "unanswered")


class Refusal(Exception):
    """A request that is refused with a code; `headers` go with it, as Retry-After does."""

    def __init__(self, code: Code, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.code, self.detail, self.headers = code, detail, headers or {}

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.code, self.detail, self.headers)


def problem(code: Code, detail: str, status: int | None = None, **more: Any) -> dict[str, Any]:
    """A problem document as plain values; `more` are its optional fields; `status` where it is not the code's own."""
    own, title = KINDS[code]
    kind = f"urn:raydistill:problem:{code}"
    document = Problem(type=kind, title=title, status=status or own, detail=detail, code=code, **more)
    return document.model_dump(exclude_none=True)


def flaws(errors: list[Any]) -> list[Flaw]:
    """What pydantic found, in our words; what was got is cut to 80 characters."""
    where = [".".join(str(part) for part in error["loc"]) or "body" for error in errors]
    got = [f"{error.get('input')!r:.80}" for error in errors]
    expected = [str(error["msg"]) for error in errors]
    return [Flaw(where=w, got=g, expected=e) for w, g, e in zip(where, got, expected, strict=True)]
