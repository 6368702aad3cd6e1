"""What is tried again, after how long, and what Retry-After means in both of its forms."""

import random
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.teachers.retry import RETRIED, Backoff, Trouble, retry_after_s, status_trouble

BUSY = Trouble("http_503", "busy", again=True)


@given(attempt=st.integers(1, 2000), seed=st.integers(0, 2**31), base=st.floats(0.01, 5), cap=st.floats(0.1, 90))
def test_a_wait_is_drawn_below_the_doubling_bound_and_the_cap(attempt: int, seed: int, base: float, cap: float) -> None:
    backoff = Backoff(attempts=10_000, base_s=base, cap_s=cap, patience_s=600)
    wait = backoff.wait_s(attempt, BUSY, random.Random(seed))
    assert wait is not None and 0 <= wait <= cap and wait <= base * 2.0 ** min(attempt, 60)
    assert wait == backoff.wait_s(attempt, BUSY, random.Random(seed))


def test_waits_fill_the_whole_interval() -> None:
    backoff, stream = Backoff(attempts=9, base_s=1, cap_s=60, patience_s=600), random.Random(0)
    waits = [backoff.wait_s(3, BUSY, stream) or 0.0 for _ in range(4000)]
    assert min(waits) < 0.1 and max(waits) > 7.9 and sum(waits) / 4000 == pytest.approx(4.0, abs=0.15)


def test_the_last_attempt_and_a_permanent_trouble_are_not_tried_again() -> None:
    backoff, stream = Backoff(attempts=3, base_s=1, cap_s=60, patience_s=600), random.Random(0)
    assert backoff.wait_s(2, BUSY, stream) is not None
    assert backoff.wait_s(3, BUSY, stream) is None
    assert backoff.wait_s(1, Trouble("http_400", "no", again=False), stream) is None


def test_a_server_is_never_asked_before_it_said_and_given_up_when_it_says_too_long() -> None:
    backoff, stream = Backoff(attempts=3, base_s=1, cap_s=2, patience_s=100), random.Random(0)
    asked = Trouble("http_429", "slow down", again=True, retry_after_s=30.0)
    assert all(30.0 <= (backoff.wait_s(1, asked, stream) or 0) <= 32.0 for _ in range(50))
    assert backoff.wait_s(1, Trouble("http_429", "tomorrow", again=True, retry_after_s=101.0), stream) is None


@pytest.mark.parametrize(
    ("header", "seconds"),
    [(None, None), ("7", 7.0), (" 1.5 ", 1.5), ("-3", 0.0), ("soon", None), ("nan", None), ("inf", None), ("", None),
     (formatdate(1_000_030, usegmt=True), 30.0), (formatdate(999_000, usegmt=True), 0.0)],
)  # fmt: skip
def test_retry_after_is_seconds_or_a_date(header: str | None, seconds: float | None) -> None:
    assert retry_after_s(header, 1_000_000.0) == seconds


@pytest.mark.parametrize("status", [200 + code for code in (1, 101, 200, 201, 203, 204, 213, 222, 229, 300, 303)])
def test_a_status_is_tried_again_only_where_that_may_help(status: int) -> None:
    trouble = status_trouble(status, "said", "5", lambda: 0.0)
    assert trouble.reason == f"http_{status}" and trouble.again == (status in RETRIED)
    assert trouble.retry_after_s == (5.0 if trouble.again else None) and not trouble.charged
