"""What a gateway says of its requests to the one who judges: small numbers, no content."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Measure = Literal["requests", "agreement", "reward", "errors", "deferrals"]


@dataclass(frozen=True)
class Event:
    """One unit did well or not: `good` in 0..1 (agreement, reward, no error, not deferred; 1 for a request itself).

    `unit` is `split.number` of who asked, `experiment` None outside all of them; `at_ms` ms since 1970, UTC.
    """

    experiment: str | None
    arm: str
    unit: int
    measure: Measure
    good: float
    at_ms: int

    @property
    def outcome(self) -> bool:
        """`good` as a coin of that mean, tossed by the unit's hash: the tests take 0 and 1, and the mean is kept."""
        toss = (self.unit * 0x9E3779B97F4A7C15 + self.at_ms) % (1 << 64)
        return toss < self.good * 2.0**64
