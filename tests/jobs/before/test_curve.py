"""The learning curve: what it says where the truth is known, and that its intervals are as wide as they must be."""

import numpy as np
import pytest

from jobs.before import curve

SIZES = [100, 200, 400, 800]


def measured(limit: float, start: float, power: float, rows: int, seed: int) -> tuple[np.ndarray, float]:
    """Pilots drawn from a known law over `rows` judged rows, and its value at 9,000."""
    rng = np.random.default_rng(seed)
    law = limit - start * (np.array([*SIZES, 9000]) / 100) ** -power
    right = np.array([rng.random(rows) < value for value in law[:-1] + rng.normal(0, curve.SEED_SD, 4)])
    return curve.ratios(right, np.ones(rows, bool), 200, seed), float(law[-1])


@pytest.mark.parametrize(
    ("limit", "start", "power"), [(0.99, 0.5, 0.5), (0.97, 0.7, 0.8), (0.95, 0.2, 0.3), (0.9, 0.4, 1.2)]
)
def test_the_interval_holds_the_truth_in_most_of_many_pilots(limit: float, start: float, power: float) -> None:
    held = []
    for seed in range(20):
        values, truth = measured(limit, start, power, 600, seed)
        found = curve.predict(SIZES, values, 9000, 0.0, seed)
        held.append(found.low <= truth <= found.high)
        assert found.low <= found.value <= found.high
    assert np.mean(held) >= 0.85


def test_pilots_at_the_foot_of_a_jump_are_far_from_sure() -> None:
    """The default recipe's own: from 100 to 800 of 16,000 rows it learns .31 to .58, and the run keeps all (1.00)."""
    right = np.array([np.arange(600) < 600 * share for share in (0.305, 0.393, 0.43, 0.58)])
    found = curve.predict(SIZES, curve.ratios(right, np.ones(600, bool), 400, 0), 16_000, 0.028, 0)
    assert found.low < 0.65 and found.high > 0.97


def test_a_size_that_was_measured_is_read_off_and_not_extrapolated() -> None:
    values = np.tile([0.5, 0.7, 0.8, 0.9], (400, 1))
    found = curve.predict(SIZES, values, 800, 0.0, 0)
    assert found.value == pytest.approx(0.9, abs=0.005) and found.high - found.low < 0.08


def test_farther_is_less_sure() -> None:
    values = np.tile([0.4, 0.55, 0.66, 0.74], (400, 1))
    near, far = (curve.predict(SIZES, values, target, 0.0, 0) for target in (1600, 100_000))
    assert far.value > near.value and far.high - far.low > near.high - near.low


def test_a_flat_curve_stays_flat() -> None:
    values = np.tile([0.95, 0.95, 0.95, 0.95], (400, 1))
    found = curve.predict(SIZES, values, 9000, 0.0, 0)
    assert found.low > 0.9 and found.high < 1.05


def test_ratios_are_paired() -> None:
    right, teacher = np.ones((2, 50), bool), np.arange(50) < 40
    right[1] = teacher
    drawn = curve.ratios(right, teacher, 300, 0)
    assert np.all(drawn[:, 1] == 1) and drawn[:, 0].mean() == pytest.approx(1.25, abs=0.05)
