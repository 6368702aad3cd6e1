"""How fast an endpoint is asked: requests and tokens per second, one limit for all rows and threads of a teacher.

Token buckets with one queue: each taker gets the moment at which both buckets let it go, never before the taker ahead
of it, so that no window holds more than a bucket and its rate. A request larger than the bucket goes when the bucket
is full, and those behind it wait for what it owes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Bucket:
    """Fills at `rate` units per second up to `burst`; times are passed in (s)."""

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self.rate, self.burst = rate, burst
        self.level, self.stamp = burst, now

    def due(self, amount: float, at: float) -> float:
        """The first moment from `at` on that holds `amount` units, or all that the bucket can hold (s)."""
        self._fill(at)
        return at + max(0.0, min(amount, self.burst) - self.level) / self.rate

    def take(self, amount: float, at: float) -> None:
        """Take units at that moment; the level may fall below 0. A negative amount gives units back."""
        self._fill(at)
        self.level = min(self.burst, self.level - amount)

    def _fill(self, at: float) -> None:
        self.level = min(self.burst, self.level + max(0.0, at - self.stamp) * self.rate)
        self.stamp = max(self.stamp, at)


class Limiter:
    """Both buckets and the pause that a server asked for. `clock` and `sleep` are passed in (seconds)."""

    def __init__(
        self,
        requests_per_s: float | None,
        tokens_per_s: float | None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        """A rate of None is no limit. A second's worth of each may go at once, and never less than one request."""
        self.clock, self.sleep, now = clock, sleep, clock()
        self.requests = None if requests_per_s is None else Bucket(requests_per_s, max(1.0, requests_per_s), now)
        self.tokens = None if tokens_per_s is None else Bucket(tokens_per_s, tokens_per_s, now)
        self._last = self._paused_until = float("-inf")
        self._lock = threading.Lock()

    def acquire(self, tokens: float) -> float:
        """Wait for one request of about `tokens` tokens and return how long that took (s)."""
        started = self.clock()
        while True:
            with self._lock:
                due = self._place(tokens)
            while (left := due - self.clock()) > 0:
                self.sleep(left)
            with self._lock:
                now = self.clock()
                if self._paused_until <= now:
                    return now - started
                self._take(-1, -tokens, now)  # a pause began while this one slept: it lines up again behind it

    def settle(self, guessed: float, used: float) -> None:
        """Correct the token bucket by what a request really took."""
        with self._lock:
            self._take(0, used - guessed, self.clock())

    def pause(self, seconds: float) -> None:
        """Nobody asks for this long: what a server's Retry-After means for all rows."""
        with self._lock:
            self._paused_until = max(self._paused_until, self.clock() + seconds)

    def _place(self, tokens: float) -> float:
        due = at = max(self.clock(), self._last, self._paused_until)
        for bucket, amount in ((self.requests, 1), (self.tokens, tokens)):
            due = due if bucket is None else max(due, bucket.due(amount, at))
        self._take(1, tokens, due)
        self._last = due
        return due

    def _take(self, requests: float, tokens: float, at: float) -> None:
        for bucket, amount in ((self.requests, requests), (self.tokens, tokens)):
            if bucket is not None:
                bucket.take(amount, at)
