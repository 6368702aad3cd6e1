"""How sure a comparison of two models is: 95 % intervals from resampling the rows both answered (paired).

Percentile bootstrap (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, 13.3).
Shape legend: R rows, D draws.
"""

from __future__ import annotations

import numpy as np

Interval = dict[str, float | None]
CHUNK = 50  # draws held in memory at once


def ratio(right_R: np.ndarray, reference_R: np.ndarray, draws: int, seed: int) -> Interval:
    """`value`, `low`, `high` of share(right) / share(reference); null where the reference is never right, and bounds
    null with `draws` 0."""
    if not reference_R.any():
        return {"value": None, "low": None, "high": None}
    above_D, below_D = _sums(right_R, reference_R, draws, seed)
    return _interval(float(right_R.sum() / reference_R.sum()), above_D[below_D > 0] / below_D[below_D > 0])


def difference(right_R: np.ndarray, reference_R: np.ndarray, draws: int, seed: int) -> Interval:
    """`value`, `low`, `high` of share(right) - share(reference); bounds null with `draws` 0."""
    first_D, second_D = _sums(right_R, reference_R, draws, seed)
    return _interval(float(right_R.mean() - reference_R.mean()), (first_D - second_D) / len(right_R))


def _sums(one_R: np.ndarray, other_R: np.ndarray, draws: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Both sums over the same drawn rows, float64 [D] each; one seed gives every comparison the same draws."""
    rng, rows = np.random.default_rng(seed), len(one_R)
    both_R2, sums_D2 = np.stack([one_R, other_R], 1).astype(np.float64), np.zeros((draws, 2))
    for start in range(0, draws, CHUNK):
        counts = rng.multinomial(rows, np.full(rows, 1 / rows), size=min(CHUNK, draws - start))
        sums_D2[start : start + CHUNK] = counts @ both_R2
    return sums_D2[:, 0], sums_D2[:, 1]


def _interval(value: float, draws_D: np.ndarray) -> Interval:
    low, high = (float(bound) for bound in np.percentile(draws_D, [2.5, 97.5])) if len(draws_D) else (None, None)
    return {"value": value, "low": low, "high": high}
