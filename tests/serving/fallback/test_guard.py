"""Breakers, hedges, budgets and rates: what is remembered between requests, on a clock that is set by hand."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.recipe.serving import ServingSection
from serving.fallback.breaker import Breaker
from serving.fallback.guard import BURST, ArmGuard, Counters, TeacherGuard
from serving.fallback.hedge import SEEN_MAX, SEEN_MIN, RunningQuantile
from serving.fallback.tokens import Tokens
from serving.seams.problems import Refusal
from serving.web.auth import Caller, RateLimit


@dataclass
class Hand:
    """A clock (seconds)."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_breaker_opens_after_failures_in_a_row_and_one_probe_decides() -> None:
    clock = Hand()
    breaker = Breaker(3, 1000, clock)
    for _ in range(2):
        breaker.failed()
    breaker.passed()
    for _ in range(3):
        assert breaker.allows()
        breaker.failed()
    assert (breaker.state, breaker.allows()) == ("open", False)
    clock.now = 1.0
    assert (breaker.state, breaker.allows(), breaker.allows()) == ("half_open", True, False)
    breaker.failed()
    assert breaker.state == "open"
    clock.now = 2.5
    assert breaker.allows()
    breaker.passed()
    assert (breaker.state, breaker.allows(), breaker.allows()) == ("closed", True, True)


def test_a_probe_that_is_given_up_lets_the_next_one_be_it() -> None:
    clock = Hand()
    breaker = Breaker(1, 1000, clock)
    breaker.failed()
    clock.now = 1.0
    assert breaker.allows()
    breaker.dropped()
    assert breaker.allows()


@given(st.lists(st.floats(0, 1e4), min_size=SEEN_MIN, max_size=3 * SEEN_MAX))
def test_the_running_quantile_is_that_of_the_last_values(values: list[float]) -> None:
    running = RunningQuantile(0.95)
    for value in values:
        running.add(value)
    last = sorted(values[-SEEN_MAX:])
    assert running.value == last[min(len(last) - 1, int(0.95 * len(last)))]


@given(st.floats(0.01, 1), st.integers(1, 2000))
def test_tokens_taken_never_pass_the_share_and_the_burst(share: float, requests: int) -> None:
    bucket, taken = Tokens(share, BURST), 0
    for _ in range(requests):
        bucket.pour()
        taken += bucket.take()
    assert taken <= share * requests + BURST + 1e-6


def guards(**changes: object) -> tuple[ArmGuard, TeacherGuard, list[str], list[str]]:
    section = ServingSection.parse({"teacher_concurrency": 2, **changes})
    fallbacks: list[str] = []
    taught: list[str] = []
    teacher = TeacherGuard(section, Hand())
    return ArmGuard(section, teacher, Counters(fallbacks.append, taught.append), Hand()), teacher, fallbacks, taught


def test_a_hedge_waits_for_twice_the_p95() -> None:
    arm, *_ = guards(hedge_factor=2.0, hedge_min_ms=50.0)
    assert arm.hedge_ms() is None  # nothing is known yet
    for ms in (10.0, 100.0):
        for _ in range(SEEN_MIN):
            arm.studied(ms, None)
        assert arm.hedge_ms() == max(50.0, 2 * ms)


def test_an_outage_of_the_student_sends_no_more_than_the_share_to_the_teacher() -> None:
    arm, _, fallbacks, taught = guards(teacher_share=0.1)
    for _ in range(1000):
        arm.student_may()
        arm.studied(1.0, "error")
        arm.fell("error")
        if arm.teacher_refusal(hedge=False) is None:
            arm.taught(None)
    assert taught.count("answered") == pytest.approx(100 + BURST, abs=1)
    assert taught.count("budget") == 1000 - taught.count("answered")
    assert fallbacks == ["error"] * 1000


def test_the_teacher_is_asked_by_so_many_at_once_and_no_more() -> None:
    arm, *_ = guards()
    assert [arm.teacher_refusal(hedge=False) for _ in range(3)] == [None, None, "budget"]
    arm.taught("dropped")
    assert arm.teacher_refusal(hedge=False) is None


def test_a_teacher_that_fails_is_left_alone_for_a_while() -> None:
    arm, teacher, _, taught = guards(breaker_failures=2)
    for _ in range(2):
        assert arm.teacher_refusal(hedge=False) is None
        arm.taught("timeout")
    assert arm.teacher_refusal(hedge=False) == "breaker_open"
    assert (teacher.breaker.state, taught) == ("open", ["timeout", "timeout", "breaker_open"])


def test_a_caller_gets_its_rate_and_the_time_to_wait() -> None:
    clock = Hand()
    limit, caller = RateLimit(60, clock), Caller("shop", "client")
    for _ in range(60):
        limit.take(caller)
    with pytest.raises(Refusal) as refused:
        limit.take(caller)
    assert refused.value.headers == {"Retry-After": "2"}
    clock.now = 2.0
    limit.take(caller)
    limit.take(Caller("other", "client"))  # another's bucket
