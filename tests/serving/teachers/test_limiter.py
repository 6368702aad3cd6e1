"""The limiter never lets more through than its rates, is fair, and keeps to a pause; the budget is never passed."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.teachers.budget import Budget, Prices
from serving.teachers.limiter import Limiter
from serving.teachers.replies import Usage


class Time:
    def __init__(self) -> None:
        self.now = 100.0

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@given(
    rate=st.floats(0.5, 20), token_rate=st.floats(5, 500),
    rows=st.lists(st.tuples(st.floats(0, 3), st.integers(0, 200)), min_size=1, max_size=40),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_no_window_holds_more_than_its_burst_and_its_rate(rate: float, token_rate: float, rows: Any) -> None:
    time = Time()
    limiter = Limiter(rate, token_rate, time.clock, time.sleep)
    sent: list[tuple[float, int]] = []
    for idle, tokens in rows:
        time.now += idle
        limiter.acquire(tokens)
        sent.append((time.now, tokens))
    for first in range(len(sent)):
        for last in range(first, len(sent)):
            seconds = sent[last][0] - sent[first][0]
            window = sent[first : last + 1]
            assert len(window) <= max(1.0, rate) + rate * seconds + 1e-6
            # Larger than the bucket may be the last only: what it is too large by is waited for behind it.
            counted = sum(tokens for _, tokens in window[:-1]) + min(window[-1][1], token_rate)
            assert counted <= token_rate + token_rate * seconds + 1e-6


def test_without_limits_nobody_waits(hand_time: Any) -> None:
    limiter = Limiter(None, None, hand_time.clock, hand_time.sleep)
    assert [limiter.acquire(10**6) for _ in range(5)] == [0.0] * 5 and hand_time.slept == []


def test_a_request_larger_than_the_bucket_is_late_and_not_stuck(hand_time: Any) -> None:
    limiter = Limiter(None, 100.0, hand_time.clock, hand_time.sleep)
    assert limiter.acquire(1000) == 0.0
    assert limiter.acquire(100) == pytest.approx(10.0)


def test_what_was_not_used_goes_back_and_what_was_used_more_is_owed(hand_time: Any) -> None:
    limiter = Limiter(None, 100.0, hand_time.clock, hand_time.sleep)
    limiter.acquire(100)
    limiter.settle(100, 20)
    assert limiter.acquire(80) == 0.0
    limiter.settle(80, 180)
    assert limiter.acquire(50) == pytest.approx(1.5)


def test_a_pause_holds_everybody_also_one_who_sleeps_already(hand_time: Any) -> None:
    limiter = Limiter(1.0, None, hand_time.clock, hand_time.sleep)
    limiter.acquire(1)
    plain_sleep, paused = hand_time.sleep, []

    def sleep(seconds: float) -> None:
        plain_sleep(seconds)
        if not paused:
            paused.append(True)
            limiter.pause(5.0)

    limiter.sleep = sleep
    assert limiter.acquire(1) == pytest.approx(6.0)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50), st.floats(0, 1)), max_size=30), st.integers(1, 400))
@settings(max_examples=80, deadline=None)
def test_a_budget_is_never_passed_whatever_is_used_of_a_reservation(rows: Any, limit: int) -> None:
    prices = Prices(2.0, 6.0)
    budget = Budget(limit * 2e-6, float(limit))
    for read, written, share in rows:
        most = prices.usage(read, written)
        if budget.reserve(most):
            budget.settle(most, prices.usage(int(read * share), int(written * share)))
        assert budget.spent.cost <= limit * 2e-6 * (1 + 1e-9)
        assert budget.spent.input_tokens + budget.spent.output_tokens <= limit


def test_a_reservation_waits_for_the_others_before_it_is_refused() -> None:
    budget, most, answers = Budget(None, 100), Usage(40, 40), []
    assert budget.reserve(most)
    waiting = threading.Thread(target=lambda: answers.append(budget.reserve(most)))
    waiting.start()
    waiting.join(0.05)
    assert waiting.is_alive()
    budget.settle(most, Usage(10, 10))
    waiting.join(5)
    assert answers == [True]
    budget.settle(most, Usage(0, 0))
    assert not budget.reserve(Usage(0, 81)) and budget.reserve(Usage(0, 80))


def test_without_a_limit_everything_fits() -> None:
    budget = Budget(None, None)
    assert all(budget.reserve(Usage(10**9, 10**9)) for _ in range(3))


def test_budgets_with_one_ledger_are_one_budget(tmp_path: Path) -> None:
    first, second = (Budget(None, 100, tmp_path / "spent.json") for _ in range(2))
    assert first.reserve(Usage(30, 30)) and not second.reserve(Usage(30, 30))
    first.settle(Usage(30, 30), Usage(5, 5))
    assert second.reserve(Usage(45, 45)) and not second.holds(Usage(60, 60))
    assert not Budget(None, 100, tmp_path / "spent.json").reserve(Usage(1, 0))  # its owner may have died: charged


def test_threads_of_several_budgets_never_pass_the_ledger(tmp_path: Path) -> None:
    budgets = [Budget(None, 200, tmp_path / "spent.json") for _ in range(3)]

    def spend(budget: Budget) -> int:
        taken = 0
        while budget.reserve(Usage(10, 0)):
            budget.settle(Usage(10, 0), Usage(7, 0))
            taken += 7
        return taken

    with ThreadPoolExecutor(3) as pool:
        taken = sum(pool.map(spend, budgets))
    assert 200 - 10 - 3 * 10 < taken <= 200
