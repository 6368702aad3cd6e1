"""The calibrated threshold keeps its promise on rows it has not seen, and says what it costs."""

import numpy as np
import pytest
from scipy.stats import binom

from serving.fallback.threshold import binomial_tail, calibrate


@pytest.mark.parametrize(("most", "rows", "share"), [(0, 10, 0.1), (3, 50, 0.05), (50, 1000, 0.06), (10, 10, 0.3)])
def test_the_tail_is_the_binomials(most: int, rows: int, share: float) -> None:
    assert binomial_tail(most, rows, share) == pytest.approx(binom.cdf(most, rows, share), rel=1e-9)


def drawn(rng: np.random.Generator, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Confidences, and answers that agree as often as their confidence says, a little less."""
    confidence = rng.beta(4, 1, rows)
    return confidence, rng.random(rows) < 0.97 * confidence**0.5


def test_the_promise_breaks_no_more_often_than_it_says() -> None:
    rng = np.random.default_rng(0)
    fresh, agrees = drawn(rng, 200_000)
    broken = found = 0
    for _ in range(200):
        threshold = calibrate(*(values.tolist() for values in drawn(rng, 2000)), target=0.92)
        if threshold is not None:
            found += 1
            broken += float(agrees[fresh >= threshold.confidence_min].mean()) < 0.92
    assert found > 100
    assert broken / 200 <= 0.05 + 0.03  # 200 draws of a rate of 5 %


def test_a_student_that_always_agrees_defers_nothing_and_one_that_never_does_has_no_threshold() -> None:
    confidence = np.linspace(0.2, 1, 300).tolist()
    always = calibrate(confidence, [True] * 300, 0.95)
    assert always is not None and (always.confidence_min, always.deferred) == (0.0, 0.0)
    assert calibrate(confidence, [False] * 300, 0.95) is None
    assert calibrate(confidence[:20], [True] * 20, 0.95) is None  # twenty rows show no 95 %


def test_more_agreement_costs_more_deferrals() -> None:
    rows = [values.tolist() for values in drawn(np.random.default_rng(1), 8000)]
    found = [calibrate(*rows, target=target) for target in (0.85, 0.89, 0.92)]
    deferred = [threshold.deferred for threshold in found if threshold is not None]
    assert len(deferred) == 3 and deferred == sorted(deferred)


def test_equal_confidences_are_never_parted() -> None:
    threshold = calibrate([0.9] * 200 + [0.5] * 200, [True] * 200 + [False] * 200, 0.95)
    assert threshold is not None and (threshold.confidence_min, threshold.deferred) == (0.9, 0.5)
