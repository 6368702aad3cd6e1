"""What goes over HTTP: requests and answers. Errors are in `problems`, the chat form in `chat`."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

TEXT_CHARACTERS_MAX = 4096
IMAGES_MAX = 2
FRAMES_MAX = 64
ID_CHARACTERS_MAX = 128
DELAY_MS_MAX = 60_000.0
DELAY_HEADER = "x-raydistill-delay-ms"
REQUEST_ID_HEADER = "x-request-id"

PRINTABLE = r"^[\x21-\x7e]+$"


def decoded(value: object) -> object:
    """The bytes of a base64 text, bytes (of a form) as they are; raises ValueError saying what is wrong with it (never
    quoting it whole)."""
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise ValueError("expected base64 text")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"expected base64 text ({error})") from None


FileBytes = Annotated[
    bytes, BeforeValidator(decoded), WithJsonSchema({"type": "string", "format": "byte", "contentEncoding": "base64"})
]
Unit = Annotated[
    str | None,
    Field(max_length=ID_CHARACTERS_MAX, description="Who or what asks: the same unit gets the same arm. Null: chance."),
]


class PredictRequest(BaseModel):
    """A question or a text to classify, with up to two pictures (PNG, JPEG, BMP or WEBP), a sound (WAV, one channel of
    16 bits) and a video (its frames as pictures): base64 in JSON, or files of a multipart form with these names."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    text: str = Field("", max_length=TEXT_CHARACTERS_MAX)
    images: list[FileBytes] = Field(default_factory=list, max_length=IMAGES_MAX)
    audio: FileBytes | None = None
    video: list[FileBytes] = Field(default_factory=list, max_length=FRAMES_MAX)
    fps: float | None = Field(None, gt=0, le=1000, description="Frames per second of the video.")
    unit: Unit = None

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


class Ranked(BaseModel):
    """One entry of a ranking: its id, and its share of the probability."""

    id: str
    score: float


Why = Literal["timeout", "low_confidence", "error", "breaker_open", "hedge"]


class PredictResponse(BaseModel):
    """An answer. `reason` without `fell_back`: the student's own, late or unsure, because the teacher had none.

    `label` and `probabilities` are there for classifiers only, `ranking` (the nearest first) for retrievers.
    """

    request_id: str
    text: str
    label: str | None = None
    confidence: float = Field(ge=0, le=1, description="exp(mean token log-probability), or the largest probability")
    probabilities: dict[str, float] | None = None
    ranking: list[Ranked] | None = None
    model: str = Field(description="Who answered: the registered model's name, or teacher.")
    version: str
    arm: str = Field(description="Where the request was routed; a fallback does not change it.")
    fell_back: bool = Field(description="The teacher answered.")
    reason: Why | None
    latency_ms: float


class FeedbackRequest(BaseModel):
    """What came of an answer: how good it was, the true label, or both. Sent twice it counts once."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    request_id: str = Field(min_length=1, max_length=ID_CHARACTERS_MAX, pattern=PRINTABLE)
    reward: float | None = Field(None, ge=-1, le=1, description="-1 (bad) to 1 (good).")
    label: str | None = Field(None, min_length=1, max_length=TEXT_CHARACTERS_MAX, description="The right answer.")

    @model_validator(mode="after")
    def something_is_said(self) -> Self:
        """Refuse feedback that says nothing."""
        if self.reward is None and self.label is None:
            raise ValueError("a reward or a label")
        return self


class FeedbackResponse(BaseModel):
    """The feedback is taken; it is joined to its request when the log is read."""

    request_id: str
    accepted: Literal[True] = True


class Model(BaseModel):
    """A model that can answer, as OpenAI's clients read it and more."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "raydistill"
    version: str
    arm: str | None
    weight: float | None = Field(None, description="Share of the units that this arm answers (0..1).")
    task: str
    scheme: str | None = None
    batch_invariant: bool | None = None


class Models(BaseModel):
    """The models that can answer, the champion first."""

    object: Literal["list"] = "list"
    data: list[Model]


class Status(BaseModel):
    """One word."""

    status: Literal["ok", "ready"]
