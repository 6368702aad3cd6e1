"""Ask the student, then the teacher where the student is late, unsure or broken, and answer inside a fixed time.

Pure asyncio: student and teacher are calls that are passed in, so the rules are tested without Ray.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

from serving.bundle.answer import Answer, BundleError

log = logging.getLogger(__name__)

Ask = Callable[[], Awaitable[Answer]]
Reason = Literal["timeout", "low_confidence", "error"]
Failure = Literal["timeout", "error", "none"]

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

    A reason without `fell_back` is the student's answer all the same, late or unsure, because the teacher had none.
    """

    answer: Answer
    fell_back: bool
    reason: Reason | None


class UnansweredError(Exception):
    """Neither model answered in time: why the student did not, and why the teacher did not ("none": not asked)."""

    def __init__(self, student: Reason, teacher: Failure) -> None:
        super().__init__(f"student: {student}, teacher: {teacher}")
        self.student, self.teacher = student, teacher


async def answer(student: Ask, teacher: Ask | None, policy: Policy, fallback: Callable[[Reason], None]) -> Outcome:
    """The answer of whichever model the policy lets answer; calls that are no longer needed are cancelled.

    `fallback` is told the reason each time the student's answer is not taken at once. Raises BundleError for a request
    that no model can read, UnansweredError when both fail; never takes longer than `total_ms`.
    """
    clock = asyncio.get_running_loop().time
    end = clock() + policy.total_ms * (1 - REPLY_SHARE) / 1000
    asked = [asyncio.ensure_future(student())]
    try:
        await asyncio.wait(asked, timeout=min(policy.student_ms / 1000, end - clock()))
        reason = _why_not(asked[0], policy.confidence_min)
        if reason is None:
            return Outcome(asked[0].result(), False, None)
        fallback(reason)
        failure: Failure = "none"
        if teacher is not None:
            asked.append(asyncio.ensure_future(teacher()))
            await asyncio.wait(asked[1:], timeout=end - clock())
            failed = _why_not(asked[1], 0.0)
            if failed is None:
                return Outcome(asked[1].result(), True, reason)
            failure = "timeout" if failed == "timeout" else "error"
        await asyncio.wait(asked[:1], timeout=max(0.0, end - clock()))  # late is better than never
        if _why_not(asked[0], 0.0) is None:
            return Outcome(asked[0].result(), False, reason)
        raise UnansweredError(reason, failure)
    finally:
        for call in asked:
            _drop(call)


def _why_not(call: asyncio.Future[Answer], confidence_min: float) -> Reason | None:
    """Why a call's answer cannot be taken, None when it can. Raises BundleError: then the request is at fault."""
    if not call.done():
        return "timeout"
    error = None if call.cancelled() else call.exception()
    if isinstance(error, BundleError):
        raise error
    if call.cancelled() or error is not None:
        log.warning("a model failed: %r", error, exc_info=error)
        return "error"
    return None if call.result().confidence >= confidence_min else "low_confidence"


def _drop(call: asyncio.Future[Answer]) -> None:
    if not call.done():
        call.cancel()
    elif not call.cancelled():
        call.exception()  # seen, so that asyncio does not report it as never retrieved
