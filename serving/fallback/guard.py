"""What a gateway remembers between requests: breakers, the student's running p95, hedges, and the teacher's budget."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from cluster.recipe.serving import ServingSection
from serving.fallback.breaker import Breaker, State
from serving.fallback.cascade import Dropped, Failure, Reason
from serving.fallback.hedge import RunningQuantile
from serving.fallback.tokens import Tokens

BURST = 10.0  # requests that may go to the teacher at once beyond its share, before it holds (count)

Count = Callable[[str], None]


@dataclass(frozen=True)
class Counters:
    """Told by name: reasons of fallbacks, and what became of the teacher's calls (answered, or the failure)."""

    fallback: Count
    teacher: Count


class TeacherGuard:
    """The teacher's breaker and budget, one for all arms: a share of the traffic, and so many at once.

    With `share` 1 an outage of the student may send everything to the teacher, as far as its concurrency goes.
    """

    def __init__(self, section: ServingSection, clock: Callable[[], float] = time.monotonic) -> None:
        self.breaker = Breaker(section.breaker_failures, section.breaker_ms, clock)
        self._budget = Tokens(section.teacher_share, BURST)
        self._free = section.teacher_concurrency

    def came(self) -> None:
        """A request came: the budget grows."""
        self._budget.pour()

    def refusal(self) -> Failure | None:
        """See `cascade.Guard.teacher_refusal`."""
        if not self._budget.some or self._free <= 0:
            return "budget"
        if not self.breaker.allows():
            return "breaker_open"
        self._budget.take()
        self._free -= 1
        return None

    def over(self, how: Failure | Dropped | None) -> None:
        """A call that was let through is over."""
        self._free += 1
        if how is None:
            self.breaker.passed()
        elif how == "dropped":
            self.breaker.dropped()
        else:
            self.breaker.failed()


class ArmGuard:
    """One arm's breaker, latencies and hedges, before the teacher that all arms share (`cascade.Guard`)."""

    def __init__(self, section: ServingSection, teacher: TeacherGuard, counters: Counters,
                 clock: Callable[[], float] = time.monotonic) -> None:  # fmt: skip
        self.breaker = Breaker(section.breaker_failures, section.breaker_ms, clock)
        self._teacher, self._counters, self._section = teacher, counters, section
        self._latency, self._hedges = RunningQuantile(0.95), Tokens(section.hedge_share, BURST)

    @property
    def state(self) -> State:
        """The arm's breaker."""
        return self.breaker.state

    @property
    def p95_ms(self) -> float | None:
        """The arm's running p95 (ms), None while too few were seen."""
        return self._latency.value

    def student_may(self) -> bool:
        """See `cascade.Guard`; called once a request, so this is where the budgets grow."""
        self._teacher.came()
        self._hedges.pour()
        return self.breaker.allows()

    def hedge_ms(self) -> float | None:
        """See `cascade.Guard`."""
        p95_ms = self._latency.value
        if p95_ms is None or not self._hedges.some:
            return None
        return max(self._section.hedge_min_ms, self._section.hedge_factor * p95_ms)

    def teacher_refusal(self, hedge: bool) -> Failure | None:
        """See `cascade.Guard`."""
        refusal = self._teacher.refusal()
        if refusal is not None:
            self._counters.teacher(refusal)
        elif hedge:
            self._hedges.take()
        return refusal

    def fell(self, reason: Reason) -> None:
        """See `cascade.Guard`."""
        self._counters.fallback(reason)

    def studied(self, ms: float, how: Reason | Dropped | None) -> None:
        """See `cascade.Guard`. Failing at once says nothing about how long an answer takes."""
        if how in ("timeout", "error"):
            self.breaker.failed()
        elif how in ("dropped", "hedge"):
            self.breaker.dropped()
        else:
            self.breaker.passed()
        if how not in ("error", "dropped"):
            self._latency.add(ms)

    def taught(self, how: Failure | Dropped | None) -> None:
        """See `cascade.Guard`."""
        self._teacher.over(how)
        self._counters.teacher(how or "answered")
