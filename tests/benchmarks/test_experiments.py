"""How often an equal challenger is rolled back under continuous monitoring, and how soon a worse one is."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from serving.experiments.sequential import Counts, TwoRates

RUNS, LOOKS, ALPHA, RATE = 2000, 200, 0.05, 0.9


def stopped(rate_b: float, share_b: float) -> tuple[list[int], float]:
    """Requests until the test rejects, for each run in which it does within 20,000, and the share of runs in which a
    z-test that is looked at just as often does."""
    generator = np.random.default_rng(2026)
    of_b = generator.binomial(100, share_b, (RUNS, LOOKS))
    hits_a, hits_b = generator.binomial(100 - of_b, RATE), generator.binomial(of_b, rate_b)
    ends, peeking = [], 0
    for n_b, s_a, s_b in zip(of_b.tolist(), hits_a.tolist(), hits_b.tolist(), strict=True):
        test, end = TwoRates("lower"), None
        fooled = False
        for look in range(LOOKS):
            test = test.after(Counts(s_a[look], 100 - n_b[look]), Counts(s_b[look], n_b[look]))
            fooled = fooled or z(test) > 1.645
            if end is None and test.rejects(ALPHA):
                end = 100 * (look + 1)
            if end is not None and fooled:
                break
        ends += [] if end is None else [end]
        peeking += fooled
    return ends, peeking / RUNS


def z(test: TwoRates) -> float:
    total = test.a + test.b
    error = math.sqrt(max(total.rate * (1 - total.rate), 1e-12) * (1 / max(test.a.total, 1) + 1 / max(test.b.total, 1)))
    return (test.a.rate - test.b.rate) / error


@pytest.mark.parametrize("share_b", [0.5, 0.1])
def test_an_equal_challenger_is_not_rolled_back(share_b: float, record: Callable[..., None]) -> None:
    ends, peeking = stopped(RATE, share_b)
    rate = len(ends) / RUNS
    record(
        f"serving.experiment.false_rollback.{share_b}",
        f"equal challenger rolled back, looked at 200 times in 20,000 requests, {RUNS} runs, share {share_b}",
        rate, "share of runs", peer="one-sided z-test at 5 %, looked at as often", peer_value=peeking,
        bar=f"<= {ALPHA}", passed=rate <= ALPHA,
    )  # fmt: skip
    assert rate <= ALPHA


@pytest.mark.parametrize("share_b", [0.5, 0.1])
def test_a_challenger_five_points_worse_is_stopped(share_b: float, record: Callable[..., None]) -> None:
    ends, _ = stopped(RATE - 0.05, share_b)
    record(
        f"serving.experiment.worse_stopped.{share_b}",
        f"mean requests until a challenger 5 points worse (85 for 90 %) is stopped, share {share_b}",
        float(np.mean(ends)), "judged units", bar="99 % of runs within 20,000", passed=len(ends) >= 0.99 * RUNS,
        median=float(np.median(ends)), p95=float(np.quantile(ends, 0.95)), stopped=len(ends) / RUNS,
    )  # fmt: skip
    assert len(ends) >= 0.99 * RUNS
