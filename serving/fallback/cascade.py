"""Ask the student, then the teacher where the student is late, unsure or broken, and answer inside a fixed time.

Pure asyncio: student and teacher are calls that are passed in, so the rules are tested without Ray. What is remembered
between requests (breakers, latencies, budgets) is a `Guard`'s, see `serving.fallback.guard`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

from cluster import tracing
from serving.bundle.answer import Answer, BundleError
from serving.seams.problems import Refusal

log = logging.getLogger(__name__)

Ask = Callable[[], Awaitable[Answer]]
Reason = Literal["timeout", "low_confidence", "error", "breaker_open", "hedge"]
Failure = Literal["timeout", "error", "none", "budget", "breaker_open"]
Dropped = Literal["dropped"]  # the call was given up for no fault of the model

REPLY_SHARE = 0.05  # of total_ms, kept back so that a 503 is written and sent inside it


@dataclass(frozen=True)
class Policy:
    """After `student_ms` the teacher is asked, after `total_ms` there is no answer (milliseconds from arrival); below
    `confidence_min` (0..1) the student's answer is not taken alone."""

    student_ms: float
    total_ms: float
    confidence_min: float


@dataclass(frozen=True)
class Outcome:
    """An answer, whether the teacher gave it, and why the student's was not taken at once.

    A reason without `fell_back` is the student's answer all the same, late or unsure, because the teacher had none;
    `student` is the student's own answer, where it has given one.
    """

    answer: Answer
    fell_back: bool
    reason: Reason | None
    student: Answer | None = field(default=None, compare=False)


class UnansweredError(Exception):
    """Neither model answered in time: why the student did not, and why the teacher did not ("none": not asked)."""

    def __init__(self, student: Reason, teacher: Failure) -> None:
        super().__init__(f"student: {student}, teacher: {teacher}")
        self.student, self.teacher = student, teacher


class Guard(Protocol):
    """What is known of earlier requests, and told of this one."""

    def student_may(self) -> bool:
        """Whether the student is to be asked: its breaker is closed, or this is the probe. `studied` follows a yes."""

    def hedge_ms(self) -> float | None:
        """After how long without an answer a second request is worth its price; None: not now."""

    def teacher_refusal(self, hedge: bool) -> Failure | None:
        """Why the teacher may not be asked; None: it may, is charged to its budget, and `taught` follows."""

    def fell(self, reason: Reason) -> None:
        """The student's answer was not taken at once."""

    def studied(self, ms: float, how: Reason | Dropped | None) -> None:
        """The student has answered after so long (None), or has not."""

    def taught(self, how: Failure | Dropped | None) -> None:
        """The teacher has answered (None), or has not."""


async def answer(student: Ask, teacher: Ask | None, policy: Policy, guard: Guard) -> Outcome:
    """The answer of whichever model the policy lets answer; calls that are no longer needed are cancelled.

    Raises BundleError for a request that no model can read, Refusal when the student's queue is full, UnansweredError
    when both fail; never takes longer than `total_ms`.
    """
    race = _Race(student, teacher, policy, guard)
    try:
        return await race.run()
    finally:
        race.end()


async def _traced(model: str, ask: Ask) -> Answer:
    with tracing.span(model):
        return await ask()


class _Race:
    """One request: at most one call to each model."""

    def __init__(self, student: Ask, teacher: Ask | None, policy: Policy, guard: Guard) -> None:
        self._policy, self._guard = policy, guard
        self._ask = {"student": student, "teacher": teacher}
        self._calls: dict[str, asyncio.Future[Answer]] = {}
        self._told: set[str] = set()  # models whose call the guard has heard the end of
        self._clock = asyncio.get_running_loop().time
        self._began = self._clock()
        self._end = self._began + policy.total_ms * (1 - REPLY_SHARE) / 1000
        self._refused: Failure = "none"

    async def run(self) -> Outcome:
        reason: Reason | None = "breaker_open"
        if self._guard.student_may():
            self._start("student")
            reason = await self._first()
        if reason is None:
            return self._outcome("student", reason)
        self._guard.fell(reason)
        failure = await self._taught()
        if failure is None:
            return self._outcome("teacher", reason)
        if "student" not in self._calls:  # its breaker is open, but nobody else is left
            self._told.add("student")
            self._start("student")
        await self._until(self._end, "student")  # late is better than never
        if self._failed("student") is None:
            return self._outcome("student", reason)
        raise UnansweredError(reason, failure)

    def end(self) -> None:
        """Cancel what still runs, and tell the guard what it has not been told."""
        if "student" in self._calls:
            self._tell_student("dropped")
        if "teacher" in self._calls:
            self._tell_teacher("dropped")
        for call in self._calls.values():
            if not call.done():
                call.cancel()
            elif not call.cancelled():
                call.exception()  # seen, so that asyncio does not report it as never retrieved

    async def _first(self) -> Reason | None:
        """Wait for the student as long as it has; None: its answer is taken, "hedge": the teacher was sooner."""
        limit = min(self._began + self._policy.student_ms / 1000, self._end)
        hedge_ms = self._guard.hedge_ms() if self._ask["teacher"] is not None else None
        if hedge_ms is not None and self._began + hedge_ms / 1000 < limit:
            await self._until(self._began + hedge_ms / 1000, "student")
            if not self._calls["student"].done() and self._start_teacher(hedge=True):
                await self._until(limit, "student", "teacher")
                if not self._calls["student"].done() and self._failed("teacher") is None:
                    self._tell_student("hedge")
                    return "hedge"
        await self._until(limit, "student")
        reason: Reason | None = self._failed("student")
        if reason is None and self._calls["student"].result().confidence < self._policy.confidence_min:
            reason = "low_confidence"
        self._tell_student(reason)
        return reason

    async def _taught(self) -> Failure | None:
        """Why the teacher does not answer before the end; None: it does."""
        if self._ask["teacher"] is None:
            return "none"
        if "teacher" not in self._calls and not self._start_teacher(hedge=False):
            return self._refused
        await self._until(self._end, "teacher")
        failure = self._failed("teacher")
        self._tell_teacher(failure)
        return failure

    def _start_teacher(self, hedge: bool) -> bool:
        refusal = self._guard.teacher_refusal(hedge)
        if refusal is None:
            self._start("teacher")
            return True
        self._refused = refusal
        return False

    def _start(self, model: str) -> None:
        ask = self._ask[model]
        assert ask is not None
        self._calls[model] = asyncio.ensure_future(_traced(model, ask) if tracing.on() else ask())

    def _failed(self, model: str) -> Literal["timeout", "error"] | None:
        """Why there is no answer of a call, None when there is. Raises what is the request's own fault."""
        call = self._calls[model]
        if not call.done():
            return "timeout"
        error = None if call.cancelled() else call.exception()
        if isinstance(error, BundleError | Refusal):
            raise error
        if call.cancelled() or error is not None:
            log.warning("a model failed: %r", error, exc_info=error)
            return "error"
        return None

    def _outcome(self, who: str, reason: Reason | None) -> Outcome:
        own = self._calls.get("student")
        student = (
            own.result() if own is not None and own.done() and not own.cancelled() and not own.exception() else None
        )
        return Outcome(self._calls[who].result(), who == "teacher", reason, student)

    def _tell_student(self, how: Reason | Dropped | None) -> None:
        if "student" not in self._told:
            self._told.add("student")
            self._guard.studied((self._clock() - self._began) * 1000, how)

    def _tell_teacher(self, how: Failure | Dropped | None) -> None:
        if "teacher" not in self._told:
            self._told.add("teacher")
            self._guard.taught(how)

    async def _until(self, when: float, *models: str) -> None:
        """Wait until one of the calls is done, or the time has come."""
        waited = [self._calls[model] for model in models]
        if not any(call.done() for call in waited):
            await asyncio.wait(waited, timeout=max(0.0, when - self._clock()), return_when=asyncio.FIRST_COMPLETED)
