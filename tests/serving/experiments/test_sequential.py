"""The bets are fair under their null hypotheses, whenever one looks, and grow where there is something to find."""

import itertools
import math
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.experiments.sequential import Counts, NotWorse, TwoRates, block_log_e, interval, sample_ratio_log_e

RUNS, LOOKS, ALPHA = 2000, 100, 0.05  # 200 looks: tests/benchmarks/test_experiments.py


def rejections(
    rates: tuple[float, float], side: Literal["lower", "higher"], share_b: float = 0.5, runs: int = 300
) -> float:
    """Share of runs of LOOKS looks at 100 requests each in which the test ever rejects."""
    generator = np.random.default_rng(7)
    arms_of_b = generator.binomial(100, share_b, (runs, LOOKS))
    hits_a, hits_b = generator.binomial(100 - arms_of_b, rates[0]), generator.binomial(arms_of_b, rates[1])
    rejected = 0
    for run in range(runs):
        test = TwoRates(side)
        for n_b, s_a, s_b in zip(arms_of_b[run].tolist(), hits_a[run].tolist(), hits_b[run].tolist(), strict=True):
            test = test.after(Counts(s_a, 100 - n_b), Counts(s_b, n_b))
            if test.rejects(ALPHA):
                rejected += 1
                break
    return rejected / runs


@pytest.mark.parametrize(("rates", "share_b", "runs"), [((0.9, 0.9), 0.5, RUNS), ((0.99, 0.99), 0.1, 500)])
def test_an_equal_challenger_is_rolled_back_in_at_most_alpha_of_runs_however_often_one_looks(
    rates: tuple[float, float], share_b: float, runs: int
) -> None:
    assert rejections(rates, "lower", share_b, runs) <= ALPHA


def test_a_better_challenger_is_never_called_worse_and_a_worse_one_is() -> None:
    assert rejections((0.85, 0.9), "lower") <= ALPHA / 2
    assert rejections((0.9, 0.85), "lower") >= 0.99
    assert rejections((0.85, 0.9), "higher") >= 0.99


@given(st.integers(1, 4), st.integers(1, 4), st.floats(0.01, 0.99), st.floats(0.01, 0.99), st.floats(0, 1))
def test_the_mean_of_a_blocks_e_value_is_at_most_one_at_every_equal_rate(
    n_a: int, n_b: int, rate_a: float, rate_b: float, truth: float
) -> None:
    mean = 0.0
    for s_a, s_b in itertools.product(range(n_a + 1), range(n_b + 1)):
        chance = math.comb(n_a, s_a) * math.comb(n_b, s_b) * truth ** (s_a + s_b)
        chance *= (1 - truth) ** (n_a + n_b - s_a - s_b)
        mean += chance * math.exp(block_log_e(Counts(s_a, n_a), Counts(s_b, n_b), rate_a, rate_b))
    assert mean <= 1 + 1e-9


@given(st.floats(0.05, 0.95), st.floats(0.05, 0.95), st.floats(0, 1), st.floats(0, 1))
def test_a_bet_on_lower_is_fair_whenever_b_is_in_truth_not_lower(
    guess_1: float, guess_2: float, truth_1: float, truth_2: float
) -> None:
    guess_b, guess_a = sorted((guess_1, guess_2))
    truth_a, truth_b = sorted((truth_1, truth_2))
    mean = 0.0
    for y_a, y_b in itertools.product((0, 1), (0, 1)):
        chance = (truth_a if y_a else 1 - truth_a) * (truth_b if y_b else 1 - truth_b)
        mean += chance * math.exp(block_log_e(Counts(y_a, 1), Counts(y_b, 1), guess_a, guess_b))
    assert mean <= 1 + 1e-9


def shown(rates: tuple[float, float], runs: int, pairs: int) -> float:
    """Share of runs in which b is shown to be at most 2 points worse within so many pairs."""
    generator = np.random.default_rng(13)
    found = 0
    for outcomes in generator.random((runs, pairs // 100, 100, 2)) < np.array(rates):
        test = NotWorse(0.02)
        for block in outcomes.tolist():
            test = test.after(block)
        found += test.rejects(ALPHA)
    return found / runs


def test_a_challenger_at_the_margin_is_passed_in_at_most_alpha_of_runs_and_an_equal_one_mostly() -> None:
    assert shown((0.9, 0.88), 100, 3000) <= ALPHA
    assert shown((0.9, 0.90), 50, 8000) >= 0.8


@given(st.floats(0, 1), st.floats(0.001, 0.5), st.floats(0, 1))
def test_a_bet_that_b_is_not_worse_is_fair_when_it_is(rate_a: float, margin: float, less: float) -> None:
    rate_b = max(rate_a - margin, 0.0) * less
    if rate_a - rate_b < margin:
        return  # b is not worse by the margin
    mean = 0.0
    for a, b in itertools.product((False, True), (False, True)):
        chance = (rate_a if a else 1 - rate_a) * (rate_b if b else 1 - rate_b)
        mean += chance * math.exp(NotWorse(margin).after([(a, b)]).log_e)
    assert mean <= 1 + 1e-9


def test_a_block_with_one_arm_alone_says_nothing() -> None:
    assert block_log_e(Counts(3, 5), Counts(), 0.5, 0.4) == 0.0
    assert TwoRates("lower").after(Counts(3, 5), Counts()).log_e == 0.0


def test_a_split_as_asked_for_raises_no_alarm_and_8_percent_for_10_is_found() -> None:
    generator = np.random.default_rng(3)

    def alarms(truth: float) -> list[int]:
        """First look at which the alarm is up; -1 for never."""
        first = []
        for steps in generator.binomial(100, truth, (200, 100)):
            challengers = np.cumsum(steps).tolist()
            ups = (
                look for look, count in enumerate(challengers)
                if sample_ratio_log_e((100 * (look + 1) - count, count), (0.9, 0.1)) >= math.log(1000)
            )  # fmt: skip
            first.append(next(ups, -1))
        return first

    assert sum(look >= 0 for look in alarms(0.1)) <= 0.001 * 200 + 1
    found = alarms(0.08)
    assert sum(look >= 0 for look in found) >= 0.95 * 200


def test_units_on_an_arm_with_no_share_are_impossible() -> None:
    assert sample_ratio_log_e((10, 1), (1.0, 0.0)) == math.inf
    assert sample_ratio_log_e((10, 0), (1.0, 0.0)) == pytest.approx(0)


@pytest.mark.parametrize("mean", [0.02, 0.5, 0.9])
def test_an_interval_holds_the_mean_at_every_look_at_once(mean: float) -> None:
    generator = np.random.default_rng(11)
    missed = 0
    for steps in generator.binomial(20, mean, (200, 40)):
        ends = [interval(total, 20 * (look + 1), 0.05) for look, total in enumerate(np.cumsum(steps).tolist())]
        missed += any(not low <= mean <= high for low, high in ends)
    assert missed / 200 <= 0.05


def test_an_interval_of_values_between_0_and_1_holds_their_mean() -> None:
    generator = np.random.default_rng(5)
    rewards = np.cumsum(generator.beta(2, 1, (200, 500)), axis=1)
    ends = [[interval(float(run[n - 1]), n, 0.05) for n in (10, 50, 200, 500)] for run in rewards]
    assert sum(any(not low <= 2 / 3 <= high for low, high in run) for run in ends) / 200 <= 0.05


@given(st.integers(0, 200), st.integers(0, 200))
def test_an_interval_is_around_the_mean_and_within_0_and_1(successes: int, failures: int) -> None:
    count = successes + failures
    low, high = interval(successes, count, 0.05)
    assert 0 <= low <= (successes / count if count else 0.5) <= high <= 1


def test_an_interval_shrinks_with_what_is_seen() -> None:
    widths = [high - low for low, high in (interval(0.9 * n, n, 0.05) for n in (10, 100, 1000, 10_000))]
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] < 0.03
