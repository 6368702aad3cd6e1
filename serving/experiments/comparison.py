"""One measure of two arms, from single outcomes to evidence: blocks for the tests, pairs for the bet on "not worse"."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from serving.experiments.sequential import Counts, NotWorse, TwoRates, interval

WAITING = 1000  # outcomes of the larger arm that wait for a partner; older ones go, whatever they are


@dataclass
class Comparison:
    """a is the champion, b the challenger. Outcomes come in by `add`; `close_block` bets on them, at moments that do
    not depend on what they are."""

    margin: float
    worse: TwoRates = field(default_factory=lambda: TwoRates("lower"))
    better: TwoRates = field(default_factory=lambda: TwoRates("higher"))
    not_worse: NotWorse = field(default_factory=lambda: NotWorse(0.0))
    block: list[Counts] = field(default_factory=lambda: [Counts(), Counts()])
    waiting: list[deque[bool]] = field(default_factory=lambda: [deque(maxlen=WAITING), deque(maxlen=WAITING)])

    def __post_init__(self) -> None:
        self.not_worse = NotWorse(self.margin)

    def add(self, challenger: bool, outcome: bool) -> None:
        """One unit's outcome."""
        known = self.block[challenger]
        self.block[challenger] = Counts(known.successes + outcome, known.total + 1)
        self.waiting[challenger].append(outcome)

    def close_block(self) -> None:
        """Bet on what came since the last block; it stays open while one arm has nothing in it."""
        a, b = self.block
        if not a.total or not b.total:
            return
        self.worse, self.better = self.worse.after(a, b), self.better.after(a, b)
        self.block = [Counts(), Counts()]
        pairs = min(len(waiting) for waiting in self.waiting)
        taken = [(self.waiting[0].popleft(), self.waiting[1].popleft()) for _ in range(pairs)]
        self.not_worse = self.not_worse.after(taken)

    @property
    def judged(self) -> int:
        """Units of the challenger that were bet on (count)."""
        return self.worse.b.total

    def numbers(self, alpha: float) -> dict[str, Any]:
        """Rates, units, intervals that hold at all times with 1 - alpha each, and log e-values (nats)."""
        a, b = self.worse.a, self.worse.b
        return {
            "champion": _numbers(a, alpha), "challenger": _numbers(b, alpha), "log_e_worse": self.worse.log_e,
            "log_e_better": self.better.log_e, "log_e_not_worse": self.not_worse.log_e, "margin": self.margin,
        }  # fmt: skip

    def plain(self) -> dict[str, Any]:
        """JSON-ready state."""
        return {
            "worse": asdict(self.worse), "better": asdict(self.better), "not_worse": asdict(self.not_worse),
            "block": [asdict(one) for one in self.block],
            "waiting": ["".join("01"[outcome] for outcome in one) for one in self.waiting],
        }  # fmt: skip

    @classmethod
    def restored(cls, plain: Mapping[str, Any]) -> Self:
        """The comparison that `plain` was made of."""
        made = cls(plain["not_worse"]["margin"])
        made.worse, made.better = _two(plain["worse"]), _two(plain["better"])
        made.not_worse = NotWorse(**plain["not_worse"])
        made.block = [Counts(**one) for one in plain["block"]]
        for waiting, outcomes in zip(made.waiting, plain["waiting"], strict=True):
            waiting.extend(outcome == "1" for outcome in outcomes)
        return made


def _two(plain: Mapping[str, Any]) -> TwoRates:
    return TwoRates(plain["side"], Counts(**plain["a"]), Counts(**plain["b"]), plain["log_e"], plain["log_e_max"])


def _numbers(counts: Counts, alpha: float) -> dict[str, Any]:
    low, high = interval(counts.successes, counts.total, alpha)
    return {"rate": counts.rate, "units": counts.total, "low": low, "high": high}
