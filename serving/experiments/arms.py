"""Running totals of one arm: who answered, how fast, how often the teacher agreed. They add up over replicas."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from serving.experiments.sequential import interval

PER_DOUBLING = 8  # latency buckets: each 9 % wider than the one before


@dataclass
class ArmStats:
    """`outcomes` and `reasons` in requests, `latency` in requests per bucket, times in ms, `agreement` as (sum of
    agreement 0..1, judged), the teacher's shadows as (sum of ms, calls)."""

    outcomes: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    latency: Counter[int] = field(default_factory=Counter)
    latency_sum_ms: float = 0.0
    deferred: int = 0
    agreed: float = 0.0
    judged: int = 0
    rewards: float = 0.0
    rewarded: int = 0
    teacher_ms: float = 0.0
    teacher_calls: int = 0

    def note(self, outcome: str, reason: str | None, deferred: bool, latency_ms: float) -> None:
        """One request."""
        self.outcomes[outcome] += 1
        self.deferred += deferred
        if reason is not None:
            self.reasons[reason] += 1
        self.latency[bucket(latency_ms)] += 1
        self.latency_sum_ms += latency_ms

    def add(self, other: ArmStats) -> None:
        """Take over what another replica counted."""
        for counted in ("outcomes", "reasons", "latency"):
            getattr(self, counted).update(getattr(other, counted))
        for summed in (
            "latency_sum_ms", "deferred", "agreed", "judged", "rewards", "rewarded", "teacher_ms", "teacher_calls"
        ):  # fmt: skip
            setattr(self, summed, getattr(self, summed) + getattr(other, summed))

    @property
    def requests(self) -> int:
        """Requests (count)."""
        return self.outcomes.total()

    def quantile_ms(self, share: float) -> float | None:
        """Latency that `share` of the requests do not exceed (ms, to the width of a bucket); None without requests."""
        left = share * self.requests
        for number in sorted(self.latency):
            left -= self.latency[number]
            if left <= 0:
                return edge_ms(number + 1)
        return None

    def plain(self, alpha: float) -> dict[str, Any]:
        """What the page shows of the arm; intervals hold at all times with probability 1 - alpha."""
        low, high = interval(self.agreed, self.judged, alpha)
        n = self.requests
        failed = sum(self.outcomes[name] for name in FAILED)
        return {
            "requests": n, "outcomes": dict(self.outcomes), "reasons": dict(self.reasons),
            "p50_ms": self.quantile_ms(0.5), "p95_ms": self.quantile_ms(0.95), "p99_ms": self.quantile_ms(0.99),
            "deferral": self.deferred / n if n else None, "errors": failed / n if n else None,
            "agreement": {"value": self.agreed / self.judged if self.judged else None, "low": low, "high": high,
                          "judged": self.judged},
            "reward": self.rewards / self.rewarded if self.rewarded else None, "rewarded": self.rewarded,
        }  # fmt: skip

    def stored(self) -> dict[str, Any]:
        """JSON-ready; `ArmStats.restored` takes it up."""
        return {name: dict(value) if isinstance(value, Counter) else value for name, value in vars(self).items()}

    @classmethod
    def restored(cls, plain: Mapping[str, Any]) -> ArmStats:
        """The totals that `stored` was made of; JSON has no whole-number keys."""
        made = cls(**plain)
        made.outcomes, made.reasons = Counter(plain["outcomes"]), Counter(plain["reasons"])
        made.latency = Counter({int(number): count for number, count in plain["latency"].items()})
        return made


FAILED = ("unanswered", "failed", "shed")


def bucket(latency_ms: float) -> int:
    """The latency's bucket: `edge_ms(n)` up to, but not with, `edge_ms(n + 1)`."""
    return math.floor(math.log2(max(latency_ms, 1e-3)) * PER_DOUBLING)


def edge_ms(number: int) -> float:
    """Where a bucket begins (ms)."""
    return float(2.0 ** (number / PER_DOUBLING))
