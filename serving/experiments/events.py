"""What a gateway says of its requests to the one who judges: small numbers, no content."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from serving.experiments.arms import ArmStats
from serving.seams.observe import Arm, Feedback

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


@dataclass(frozen=True)
class Judged:
    """A champion's answer whose quality is known: `good` in 0..1 by `measure` (agreement, accuracy or reward)."""

    request_id: str
    measure: Literal["agreement", "accuracy", "reward"]
    good: float
    confidence: float
    at_ms: int


@dataclass(frozen=True)
class Batch:
    """What one gateway replica saw since its last batch; `number` counts up, so that one that is sent twice counts
    once; `oldest` is the first one that it could still send again. `since_ms` is when it took these versions; `inputs`
    are rows of `drift.inputs`, `stats` are by arm, `said` is feedback about requests that another replica answered."""

    gateway: str
    number: int
    arms: Sequence[Arm]
    since_ms: int = 0
    events: Sequence[Event] = ()
    judged: Sequence[Judged] = ()
    inputs: Sequence[Mapping[str, str]] = ()
    stats: Mapping[str, ArmStats] = field(default_factory=dict)
    said: Sequence[Feedback] = ()
    oldest: int = 0
