"""When a second request is worth its price: beyond twice the running p95, and only a few in a hundred.

Source: Dean and Barroso, "The Tail at Scale", CACM 2013 (hedged requests after the 95th percentile, about 5 % more
load); the bucket keeps an outage from doubling it.
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


class Tokens:
    """A bucket that each request pours `share` of a token into, `most` fit in; taking one empties it by one.

    It begins full, but for a share of 0: that is never.
    """

    def __init__(self, share: float, most: float) -> None:
        self._share, self._most, self._level = share, most, most if share else 0.0

    def pour(self) -> None:
        """One request came."""
        self._level = min(self._most, self._level + self._share)

    @property
    def some(self) -> bool:
        """Whether one can be taken."""
        return self._level >= 1 - 1e-9  # ten times 0.1 is a token

    def take(self) -> bool:
        """Take one, if there is one."""
        if not self.some:
            return False
        self._level -= 1
        return True
