"""When a search ends before its last trial: after so many minutes, or when so much money is spent."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from ray.tune import Stopper

from tuning.ledger import Ledger


class Budget(Stopper):
    """Tune's stopper of the whole search. Money is trials' seconds times the price of the place that each takes; it is
    looked at whenever a trial reports, so at most one report interval of every running trial is spent beyond it."""

    def __init__(self, ledger: Ledger, minutes: float | None, money: float | None, price_per_hour: float) -> None:
        """minutes, money: None for no limit."""
        self.ledger, self.minutes, self.money, self.price_per_hour = ledger, minutes, money, price_per_hour
        self.started, self.seconds = time.monotonic(), dict[str, float]()

    @property
    def spent(self) -> float:
        """What the trials cost so far (currency)."""
        return sum(self.seconds.values()) / 3600 * self.price_per_hour

    def __call__(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        """Note a trial's seconds; it never ends one trial alone."""
        self.seconds[trial_id] = float(result["time_total_s"])
        return False

    def stop_all(self) -> bool:
        """Whether the budget is spent."""
        late = self.minutes is not None and time.monotonic() - self.started > 60 * self.minutes
        dear = self.money is not None and self.spent > self.money
        self.ledger.over = self.ledger.over or late or dear
        return self.ledger.over
