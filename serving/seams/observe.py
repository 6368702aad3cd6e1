"""What the gateway tells of each request, and who it asks which arm answers: the one seam between serving and its
experiments, traffic log and metrics.

The gateway holds one `Observer` per replica. Nothing here computes; `Quiet` is what serves where nothing is tried out.
"""

from __future__ import annotations

import importlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from serving.bundle.answer import Answer

Outcome = Literal["student", "student_anyway", "teacher", "unreadable", "unanswered", "shed", "failed"]
CHAMPION = "champion"

# Asks an arm by name, or "teacher", beside the request that is answered; raises what the model raises.
Ask = Callable[[str, Mapping[str, Any]], Awaitable[Answer]]
# A FastAPI dependency: raises Refusal for a request without a key where keys exist.
LetIn = Callable[..., Awaitable[None]]


@dataclass(frozen=True)
class Arm:
    """A student that may be chosen: which registered version it is, and its share of the units (0..1).

    The order of arms is fixed and the champion comes first, so that ramping the last one moves only units it must.
    """

    name: str
    model: str
    version: str
    weight: float


@dataclass(frozen=True)
class Record:
    """One request to a model and what became of it.

    `arm` is where it was routed (a fallback does not change it), `model` and `version` who answered; `student` is the
    arm's own answer where there is one, so that with `fell_back` it stands beside the teacher's. A text that was asked
    for in other terms than the bundle's (length, temperature, stop) is not `comparable` with anybody's.
    """

    request_id: str
    at_ms: int  # UTC, milliseconds since 1970
    route: Literal["predict", "chat"]
    unit: str
    arm: str
    model: str
    version: str
    item: Mapping[str, Any]  # {"text", "images", ...}: media as bytes
    answer: Answer | None  # None: there was none
    student: Answer | None
    outcome: Outcome
    fell_back: bool
    reason: str | None
    latency_ms: float
    comparable: bool = True


@dataclass(frozen=True)
class Feedback:
    """What a caller says of an answer later: a reward (-1..1), the true label, or both. One per request id counts."""

    request_id: str
    at_ms: int
    reward: float | None
    label: str | None


class Observer(Protocol):
    """Chooses arms and is told of answers, on the event loop of the gateway: it never blocks and never raises."""

    def configure(self, arms: Sequence[Arm], salt: str) -> None:
        """Told at the start and whenever arms or shares change."""

    def choose(self, unit: str) -> str:
        """Name of the arm that answers this unit: the same one every time, until shares change."""

    def answered(self, record: Record) -> None:
        """Told of every request to a model, also of those that failed, after the answer is known."""

    def feedback(self, given: Feedback) -> None:
        """Told of every accepted feedback; the same one may come twice (HAProxy repeats a request)."""

    def router(self, known: LetIn) -> Any | None:
        """A `fastapi.APIRouter` of routes to add (`/ui`), None for none; what shows figures depends on `known`."""

    async def close(self) -> None:
        """Write out what is held; the replica ends."""


class Quiet:
    """Nothing is tried out: the first arm answers, nothing is written."""

    def __init__(self) -> None:
        self._first = CHAMPION

    def configure(self, arms: Sequence[Arm], salt: str) -> None:
        """See `Observer.configure`."""
        self._first = arms[0].name

    def choose(self, unit: str) -> str:
        """The first arm."""
        return self._first

    def answered(self, record: Record) -> None:
        """Not written down."""

    def feedback(self, given: Feedback) -> None:
        """Not written down."""

    def router(self, known: LetIn) -> None:
        """No routes."""

    async def close(self) -> None:
        """Nothing is held."""


def open_observer(spec: Mapping[str, Any] | None, ask: Ask) -> Observer:
    """The observer that `{"open": "module:function", "args": {...}}` names: `function(args, ask)`; None: `Quiet`.

    `args` is JSON, for it travels in the deployment's declarative config.
    """
    if spec is None:
        return Quiet()
    module, _, name = str(spec["open"]).partition(":")
    made: Observer = getattr(importlib.import_module(module), name)(spec["args"], ask)
    return made
