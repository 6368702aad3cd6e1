"""The rules of fallback, without Ray: who answers, how it is marked, and that nothing outlives the deadline."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest

from serving import cascade
from serving.bundle.answer import Answer, BundleError

SURE, UNSURE, TAUGHT = Answer("seven", 0.9), Answer("one", 0.2), Answer("nine", 0.95)
POLICY = cascade.Policy(student_ms=50, total_ms=400, confidence_min=0.5)


@dataclass
class Model:
    """Answers (or raises) after some milliseconds, and remembers what became of each call."""

    gives: Answer | Exception
    after_ms: float = 0.0
    calls: list[str] = field(default_factory=list)

    async def ask(self) -> Answer:
        self.calls.append("asked")
        try:
            await asyncio.sleep(self.after_ms / 1000)
        except asyncio.CancelledError:
            self.calls.append("cancelled")
            raise
        if isinstance(self.gives, Exception):
            raise self.gives
        return self.gives


class Clock(asyncio.SelectorEventLoop):
    """An event loop whose time jumps to the next timer: deadlines are exact however busy the machine is."""

    now = 0.0

    def time(self) -> float:
        return self.now

    def _run_once(self) -> None:
        timers = [timer.when() for timer in self._scheduled if not timer.cancelled()]  # type: ignore[attr-defined]
        if timers and not self._ready:  # type: ignore[attr-defined]
            self.now = max(self.now, min(timers))
        super()._run_once()  # type: ignore[misc]


def run(student: Model, teacher: Model | None = None) -> tuple[cascade.Outcome | Exception, list[str], float]:
    """Return the outcome or what was raised, the fallbacks counted, and the milliseconds it took."""
    reasons: list[str] = []

    async def ask() -> tuple[cascade.Outcome | Exception, float]:
        clock, outcome = asyncio.get_running_loop().time, None
        try:
            outcome = await cascade.answer(student.ask, teacher.ask if teacher else None, POLICY, reasons.append)
        except (cascade.UnansweredError, BundleError) as error:
            outcome = error
        took_ms = clock() * 1000
        await asyncio.sleep(0)  # a cancelled call learns of it in the loop's next round
        return outcome, took_ms

    with asyncio.Runner(loop_factory=Clock) as runner:
        outcome, took_ms = runner.run(ask())
    return outcome, reasons, took_ms


def test_a_sure_student_in_time_answers_alone() -> None:
    teacher = Model(TAUGHT)
    outcome, reasons, _ = run(Model(SURE), teacher)
    assert outcome == cascade.Outcome(SURE, fell_back=False, reason=None)
    assert (reasons, teacher.calls) == ([], [])


@pytest.mark.parametrize(
    ("student", "reason"),
    [
        (Model(SURE, after_ms=300), "timeout"),
        (Model(UNSURE), "low_confidence"),
        (Model(RuntimeError("no")), "error"),
    ],
    ids=["late", "unsure", "broken"],
)
def test_the_teacher_answers_for_a_student_that_is_late_unsure_or_broken(student: Model, reason: str) -> None:
    outcome, reasons, took_ms = run(student, Model(TAUGHT))
    assert outcome == cascade.Outcome(TAUGHT, fell_back=True, reason=reason)
    assert reasons == [reason]
    assert took_ms == (POLICY.student_ms if reason == "timeout" else 0)


def test_a_late_student_is_cancelled_once_the_teacher_has_answered() -> None:
    student = Model(SURE, after_ms=300)
    run(student, Model(TAUGHT))
    assert student.calls == ["asked", "cancelled"]


def test_a_late_student_answers_and_is_marked_when_the_teacher_fails() -> None:
    outcome, reasons, took_ms = run(Model(SURE, after_ms=150), Model(RuntimeError("down")))
    assert outcome == cascade.Outcome(SURE, fell_back=False, reason="timeout")
    assert reasons == ["timeout"]
    assert took_ms < POLICY.total_ms


def test_a_late_student_answers_when_the_teacher_hangs() -> None:
    teacher = Model(TAUGHT, after_ms=10_000)
    outcome, _, took_ms = run(Model(SURE, after_ms=150), teacher)
    assert outcome == cascade.Outcome(SURE, fell_back=False, reason="timeout")
    assert took_ms < POLICY.total_ms
    assert teacher.calls == ["asked", "cancelled"]


@pytest.mark.parametrize("teacher", [None, Model(RuntimeError("down")), Model(TAUGHT, after_ms=10_000)])
def test_an_unsure_student_answers_and_is_marked_when_no_teacher_does(teacher: Model | None) -> None:
    outcome, _, took_ms = run(Model(UNSURE), teacher)
    assert outcome == cascade.Outcome(UNSURE, fell_back=False, reason="low_confidence")
    assert took_ms < POLICY.total_ms


@pytest.mark.parametrize(
    ("student", "teacher", "why"),
    [
        (Model(RuntimeError("no")), Model(RuntimeError("down")), ("error", "error")),
        (Model(RuntimeError("no")), None, ("error", "none")),
        (Model(SURE, after_ms=10_000), Model(TAUGHT, after_ms=10_000), ("timeout", "timeout")),
        (Model(SURE, after_ms=10_000), Model(RuntimeError("down")), ("timeout", "error")),
    ],
    ids=["both broken", "broken, no teacher", "both hang", "one hangs, one broken"],
)
def test_when_both_fail_the_caller_learns_why_inside_the_deadline(
    student: Model, teacher: Model | None, why: tuple[str, str]
) -> None:
    outcome, _, took_ms = run(student, teacher)
    assert isinstance(outcome, cascade.UnansweredError)
    assert (outcome.student, outcome.teacher) == why
    assert took_ms < POLICY.total_ms


def test_a_hanging_pair_is_cancelled_at_the_deadline() -> None:
    student, teacher = Model(SURE, after_ms=10_000), Model(TAUGHT, after_ms=10_000)
    outcome, _, took_ms = run(student, teacher)
    assert isinstance(outcome, cascade.UnansweredError)
    assert POLICY.total_ms * 0.9 < took_ms < POLICY.total_ms
    assert student.calls == teacher.calls == ["asked", "cancelled"]


@pytest.mark.parametrize("after_ms", [0, 100], ids=["at once", "late"])
def test_a_request_that_cannot_be_read_is_no_reason_to_answer_otherwise(after_ms: float) -> None:
    unreadable = BundleError("image: not a readable picture")
    assert run(Model(unreadable, after_ms), Model(unreadable))[0] is unreadable


def test_a_caller_that_leaves_cancels_both_models() -> None:
    student, teacher = Model(SURE, after_ms=10_000), Model(TAUGHT, after_ms=10_000)

    async def leave() -> None:
        call = asyncio.ensure_future(cascade.answer(student.ask, teacher.ask, POLICY, lambda reason: None))
        await asyncio.sleep(0.15)
        call.cancel()
        await asyncio.wait([call])

    with asyncio.Runner(loop_factory=Clock) as runner:
        runner.run(leave())
    assert student.calls == teacher.calls == ["asked", "cancelled"]


def test_the_event_loop_stays_free_while_the_student_computes() -> None:
    from serving.student import Student

    student = Student.__new__(Student)  # no bundle: only how it is run matters here
    student._thread = ThreadPoolExecutor(1)
    student._answer = lambda item, delay_ms: (time.sleep(delay_ms / 1000), SURE)[1]  # type: ignore[method-assign]

    async def rounds() -> int:
        call, count = asyncio.ensure_future(student.answer({}, 300)), 0
        while not call.done():
            count += 1
            await asyncio.sleep(0.005)
        return count

    assert asyncio.run(rounds()) > 3  # 60 on an idle machine, 1 if the model held the loop
