"""What goes over HTTP: requests, answers, and errors as RFC 9457 problem documents with a stable `code`."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

BODY_BYTES_MAX = 2 << 20
TEXT_CHARACTERS_MAX = 4096
IMAGES_MAX = 2
FRAMES_MAX = 64
DELAY_MS_MAX = 60_000.0
DELAY_HEADER = "x-raydistill-delay-ms"
REQUEST_ID_HEADER = "x-request-id"
PROBLEM_TYPE = "application/problem+json"

Code = Literal[
    "invalid_json", "invalid_request", "unreadable_input", "body_too_large", "not_found", "method_not_allowed",
    "http_error", "unanswered", "internal",
]  # fmt: skip


def decoded(value: object) -> object:
    """The bytes of a base64 text; raises ValueError saying what is wrong with it (never quoting it whole)."""
    if not isinstance(value, str):
        raise ValueError("expected base64 text")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"expected base64 text ({error})") from None


FileBytes = Annotated[
    bytes, BeforeValidator(decoded), WithJsonSchema({"type": "string", "format": "byte", "contentEncoding": "base64"})
]


class PredictRequest(BaseModel):
    """A question or a text to classify, with up to two pictures (PNG, JPEG, BMP or WEBP), a sound (WAV, one channel of
    16 bits) and a video (its frames as pictures), all base64."""

    model_config = ConfigDict(extra="forbid")

    text: str = Field("", max_length=TEXT_CHARACTERS_MAX, examples=["what digit is this ?"])
    images: list[FileBytes] = Field(default_factory=list, max_length=IMAGES_MAX)
    audio: FileBytes | None = None
    video: list[FileBytes] = Field(default_factory=list, max_length=FRAMES_MAX)
    fps: float | None = Field(None, gt=0, le=1000, description="Frames per second of the video.")

    @model_validator(mode="after")
    def something_is_asked(self) -> Self:
        """Refuse a request without words; a picture to classify needs none."""
        if not self.text and not self.images:
            raise ValueError("a text of at least one character, or a picture to classify")
        return self

    def item(self) -> dict[str, Any]:
        """The request as models take it (`serving.bundle.pictures.encode`)."""
        sound = {} if self.audio is None else {"audio": self.audio}
        video = {"frames": self.video, "fps": self.fps} if self.video else {}
        return {"text": self.text, "images": self.images, **sound, **video}


class PredictResponse(BaseModel):
    """An answer. `reason` without `fell_back`: the student's own, late or unsure, because the teacher had none.

    `label` and `probabilities` are there for classifiers only.
    """

    request_id: str
    text: str
    label: str | None = None
    confidence: float = Field(ge=0, le=1, description="exp(mean token log-probability), or the largest probability")
    probabilities: dict[str, float] | None = None
    model: str = Field(description="Who answered: the registered model's name, or teacher.")
    version: str
    arm: Literal["student"] = Field(description="Where the request was routed; a fallback does not change it.")
    fell_back: bool = Field(description="The teacher answered.")
    reason: Literal["timeout", "low_confidence", "error"] | None
    latency_ms: float


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


TITLES: dict[Code, str] = {
    "invalid_json": "The body is not JSON.",
    "invalid_request": "The request does not have the expected form.",
    "unreadable_input": "The model cannot read this input.",
    "body_too_large": "The body is too large.",
    "not_found": "There is nothing at this address.",
    "method_not_allowed": "This address does not take this method.",
    "http_error": "The request cannot be handled.",
    "unanswered": "Neither the student nor the teacher answered in time.",
    "internal": "The server failed.",
}


def problem(code: Code, status: int, detail: str, **more: Any) -> dict[str, Any]:
    """A problem document as plain values; `more` are its optional fields."""
    kind = f"urn:raydistill:problem:{code}"
    document = Problem(type=kind, title=TITLES[code], status=status, detail=detail, code=code, **more)
    return document.model_dump(exclude_none=True)


def flaws(errors: list[dict[str, Any]]) -> list[Flaw]:
    """What pydantic found, in our words; what was got is cut to 80 characters."""
    where = [".".join(str(part) for part in error["loc"]) for error in errors]
    got = [f"{error.get('input')!r:.80}" for error in errors]
    return [Flaw(where=w, got=g, expected=_expected(error)) for w, g, error in zip(where, got, errors, strict=True)]


def _expected(error: dict[str, Any]) -> str:
    # FastAPI parses a body as JSON only when its content type says so (strict: a page elsewhere cannot post as a form).
    return "a JSON object, sent as application/json" if error["type"] == "model_attributes_type" else str(error["msg"])
