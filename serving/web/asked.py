"""One request inside the gateway, and what it is answered: what routes and gateway hand to each other."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from serving.bundle.answer import Answer
from serving.fallback.cascade import Reason
from serving.seams.observe import Feedback, Observer
from serving.students.stepper import Writing, Written
from serving.students.student import Reads
from serving.web.auth import Keys, RateLimit


@dataclass(frozen=True)
class Asked:
    """A request to a model: `unit` decides the arm, `delay_ms` is a fault to inject, `writing` is for texts."""

    request_id: str
    unit: str
    item: Mapping[str, Any]
    route: Literal["predict", "chat"] = "predict"
    delay_ms: float = 0.0
    writing: Writing = field(default_factory=Writing)


@dataclass(frozen=True)
class Given:
    """An answer and who gave it; `written` of texts that the student wrote."""

    answer: Answer
    arm: str
    model: str
    version: str
    fell_back: bool
    reason: Reason | None
    written: Written | None = None


Pieces = AsyncGenerator["str | Given", None]


class Desk(Protocol):
    """What answers behind the routes."""

    keys: Keys
    limit: RateLimit
    observer: Observer
    allow_fault_injection: bool
    megapixels_max: float
    body_bytes_max: int

    @property
    def reads(self) -> Reads:
        """What of a request the student can read."""

    @property
    def task(self) -> str:
        """What is served: `Recipe.task`."""

    async def answer(self, asked: Asked) -> Given:
        """Raises BundleError for what no model can read, Refusal when too many ask, UnansweredError when student and
        teacher both fail in time."""

    def write(self, asked: Asked) -> Pieces:
        """Pieces of an answer as they come, then all of it; raises as `answer` before the first piece."""

    def feedback(self, given: Feedback) -> None:
        """Take it down; the same one may come twice."""

    def models(self) -> list[dict[str, Any]]:
        """Fields of `api.Model` of the models that can answer, the champion first."""

    def example(self) -> dict[str, Any]:
        """A body of `/v1/predict` that the student can read."""

    async def control(self, action: str, **arguments: Any) -> dict[str, Any]:
        """Ask the control actor (`serving.deployment.control.Control`). Raises Refusal when it cannot or will not."""
