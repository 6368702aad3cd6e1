"""When a request is tried again, and after how long: exponential backoff with full jitter, and what Retry-After says.

wait ~ Uniform(0, min(cap, base * 2^k)) before attempt k + 1, k = 1, 2, ... (M. Brooker, "Exponential Backoff And
Jitter", AWS Architecture Blog, 2015: of its variants full jitter does the least work under contention).
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

# What a second try may mend: the endpoint was busy, starting, or behind a proxy that lost it.
RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504, 529})


@dataclass(frozen=True)
class Trouble:
    """One attempt that gave no answer: a short `reason`, a `detail` for people, whether another try may help, whether
    the server may have charged for it, and how long it asked to be left alone (s; None: it did not say)."""

    reason: str
    detail: str
    again: bool
    charged: bool = False
    retry_after_s: float | None = None


@dataclass(frozen=True)
class Backoff:
    """`attempts` in all, the first wait up to `base_s`, no wait beyond `cap_s` (s), and a server that asks for more
    than `patience_s` (s) is given up."""

    attempts: int
    base_s: float
    cap_s: float
    patience_s: float

    def wait_s(self, attempt: int, trouble: Trouble, stream: random.Random) -> float | None:
        """Seconds to wait after `attempt` (1 is the first); None: not again.

        What the server asks for is kept to, with the jitter on top, so that rows do not come back all at once.
        """
        if not trouble.again or attempt >= self.attempts:
            return None
        jitter = stream.uniform(0.0, min(self.cap_s, self.base_s * 2.0 ** min(attempt, 60)))
        if trouble.retry_after_s is None:
            return jitter
        return None if trouble.retry_after_s > self.patience_s else trouble.retry_after_s + jitter


def status_trouble(status: int, detail: str, retry_after: str | None, wall: Callable[[], float] = time.time) -> Trouble:
    """What a status that is not 200 means. `retry_after`: the header's text; `wall`: the time of day (Unix s)."""
    again = status in RETRIED
    wait = retry_after_s(retry_after, wall()) if again else None
    return Trouble(f"http_{status}", detail, again, retry_after_s=wait)


def retry_after_s(header: str | None, now: float) -> float | None:
    """Seconds that a Retry-After header asks for: a number, or an HTTP date seen from `now` (Unix s), never below 0.

    None where there is no header or it says neither (RFC 9110, section 10.2.3).
    """
    if header is None:
        return None
    text = header.strip()
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(text).timestamp() - now
        except (ValueError, TypeError, OverflowError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None
