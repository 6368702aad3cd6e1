"""The rules of fallback, without Ray: who answers, how it is marked, and that nothing outlives the deadline."""

import asyncio
from dataclasses import dataclass, field

import pytest

from serving.bundle.answer import Answer, BundleError
from serving.fallback import cascade
from serving.seams.problems import Refusal

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


@dataclass
class Watch:
    """Lets everything pass unless told otherwise, and writes down what it is told."""

    student: bool = True
    hedge: float | None = None
    refusal: cascade.Failure | None = None
    reasons: list[str] = field(default_factory=list)
    told: list[tuple[str, str | None]] = field(default_factory=list)

    def student_may(self) -> bool:
        return self.student

    def hedge_ms(self) -> float | None:
        return self.hedge

    def teacher_refusal(self, hedge: bool) -> cascade.Failure | None:
        return self.refusal

    def fell(self, reason: str) -> None:
        self.reasons.append(reason)

    def studied(self, ms: float, how: str | None) -> None:
        self.told.append(("student", how))

    def taught(self, how: str | None) -> None:
        self.told.append(("teacher", how))


def run(
    student: Model, teacher: Model | None = None, watch: Watch | None = None
) -> tuple[cascade.Outcome | Exception, list[str], float]:
    """Return the outcome or what was raised, the fallbacks counted, and the milliseconds it took."""
    watch = watch or Watch()

    async def ask() -> tuple[cascade.Outcome | Exception, float]:
        clock, outcome = asyncio.get_running_loop().time, None
        try:
            outcome = await cascade.answer(student.ask, teacher.ask if teacher else None, POLICY, watch)
        except (cascade.UnansweredError, BundleError, Refusal) as error:
            outcome = error
        took_ms = clock() * 1000
        await asyncio.sleep(0)  # a cancelled call learns of it in the loop's next round
        return outcome, took_ms

    with asyncio.Runner(loop_factory=Clock) as runner:
        outcome, took_ms = runner.run(ask())
    return outcome, watch.reasons, took_ms


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
        call = asyncio.ensure_future(cascade.answer(student.ask, teacher.ask, POLICY, Watch()))
        await asyncio.sleep(0.15)
        call.cancel()
        await asyncio.wait([call])

    with asyncio.Runner(loop_factory=Clock) as runner:
        runner.run(leave())
    assert student.calls == teacher.calls == ["asked", "cancelled"]


def test_a_late_student_is_hedged_and_the_sooner_one_answers() -> None:
    watch, student, teacher = Watch(hedge=10), Model(SURE, after_ms=45), Model(TAUGHT, after_ms=5)
    outcome, reasons, took_ms = run(student, teacher, watch)
    assert outcome == cascade.Outcome(TAUGHT, fell_back=True, reason="hedge")
    assert (reasons, student.calls, round(took_ms)) == (["hedge"], ["asked", "cancelled"], 15)
    assert watch.told == [("student", "hedge"), ("teacher", None)]


def test_a_hedge_that_loses_is_cancelled_and_is_no_fallback() -> None:
    watch, teacher = Watch(hedge=10), Model(TAUGHT, after_ms=100)
    outcome, reasons, _ = run(Model(SURE, after_ms=20), teacher, watch)
    assert outcome == cascade.Outcome(SURE, fell_back=False, reason=None)
    assert (reasons, teacher.calls) == ([], ["asked", "cancelled"])
    assert watch.told == [("student", None), ("teacher", "dropped")]


def test_a_hedge_that_was_sent_serves_the_timeout_too() -> None:
    watch, teacher = Watch(hedge=10), Model(TAUGHT, after_ms=100)
    outcome, reasons, took_ms = run(Model(SURE, after_ms=10_000), teacher, watch)
    assert isinstance(outcome, cascade.Outcome)
    assert (outcome.answer, reasons, round(took_ms)) == (TAUGHT, ["timeout"], 110)
    assert teacher.calls == ["asked"]


def test_a_failed_hedge_is_not_asked_again() -> None:
    teacher = Model(RuntimeError("down"))
    outcome, _, _ = run(Model(SURE, after_ms=100), teacher, Watch(hedge=10))
    assert outcome == cascade.Outcome(SURE, fell_back=False, reason="timeout")
    assert teacher.calls == ["asked"]


def test_behind_an_open_breaker_the_student_is_left_alone() -> None:
    student = Model(SURE)
    outcome, reasons, _ = run(student, Model(TAUGHT), Watch(student=False))
    assert outcome == cascade.Outcome(TAUGHT, fell_back=True, reason="breaker_open")
    assert (reasons, student.calls) == (["breaker_open"], [])


def test_behind_an_open_breaker_the_student_is_asked_all_the_same_when_nobody_else_is_left() -> None:
    watch = Watch(student=False)
    outcome, _, _ = run(Model(SURE), Model(RuntimeError("down")), watch)
    assert outcome == cascade.Outcome(SURE, fell_back=False, reason="breaker_open")
    assert watch.told == [("teacher", "error")]  # the breaker learns nothing from a call that it did not let through


@pytest.mark.parametrize("refusal", ["budget", "breaker_open"])
def test_a_teacher_that_may_not_be_asked_is_not_and_the_caller_learns_why(refusal: cascade.Failure) -> None:
    teacher = Model(TAUGHT)
    outcome, _, _ = run(Model(RuntimeError("no")), teacher, Watch(refusal=refusal))
    assert isinstance(outcome, cascade.UnansweredError)
    assert (outcome.student, outcome.teacher, teacher.calls) == ("error", refusal, [])


def test_a_full_queue_is_no_reason_to_ask_the_teacher() -> None:
    full, teacher = Refusal("overloaded", "full"), Model(TAUGHT)
    watch = Watch()
    assert run(Model(full), teacher, watch)[0] is full
    assert (teacher.calls, watch.told) == ([], [("student", "dropped")])


def test_what_the_student_said_stands_beside_the_teachers_answer() -> None:
    outcome, _, _ = run(Model(UNSURE), Model(TAUGHT))
    assert outcome == cascade.Outcome(TAUGHT, fell_back=True, reason="low_confidence")
    assert isinstance(outcome, cascade.Outcome)
    assert outcome.student == UNSURE


@pytest.mark.parametrize(("student", "teacher"), [(Model(SURE), None), (Model(RuntimeError("x")), Model(TAUGHT)),
                                                  (Model(SURE, 10_000), Model(TAUGHT, 10_000))])  # fmt: skip
def test_the_guard_hears_of_every_call_once(student: Model, teacher: Model | None) -> None:
    watch = Watch(hedge=10)
    run(student, teacher, watch)
    assert sorted(name for name, _ in watch.told) == ["student", "teacher"][: 1 if teacher is None else 2]
