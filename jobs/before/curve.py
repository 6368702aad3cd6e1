"""A learning curve from a few sizes, and what it says about a larger one, with how unsure that is.

The law is value(n) = c - a n^-b (Hestness et al. 2017, arXiv 1712.00409). Four points do not fix three numbers, so none
is picked: every (b, c) of a grid counts by how well its best a fits, and a prediction is drawn from all of them.
Shape legend: D draws, N sizes, R rows, B exponents, C limits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

EXPONENTS_B = np.linspace(0.1, 1.5, 15)
LIMIT_MAX = 1.03  # a student may end a little above its teacher
LIMITS = 32
SEED_SD = 0.01  # what another seed moves a finished student's value by; SEED_GROWTH: more, the less it has learned
SEED_GROWTH = 4.0


@dataclass(frozen=True)
class Prediction:
    """A median and its 95 % interval."""

    value: float
    low: float
    high: float


def ratios(right_NR: np.ndarray, reference_R: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """Share right over the reference's, float64 [D, N], of rows drawn again with replacement (the same for all)."""
    rng, rows = np.random.default_rng(seed), right_NR.shape[1]
    counts_DR = rng.multinomial(rows, np.full(rows, 1 / rows), size=draws)
    reference_D1 = np.maximum(counts_DR @ reference_R.astype(float), 1)[:, None]
    return np.asarray(counts_DR @ right_NR.T.astype(float) / reference_D1)


def predict(sizes_N: Sequence[int], values_DN: np.ndarray, target: int, noise_sd: float, seed: int) -> Prediction:
    """The value at `target` rows. `noise_sd`: what a single run at that size adds (the value's unit).

    values_DN: the measured values as they would be on other rows. Each draw also moves its points as other seeds would,
    chooses one law by its fit, and is read off there.
    """
    rng = np.random.default_rng(seed)
    drawn = np.array([_one(np.asarray(sizes_N, float), own_N, target, rng) for own_N in values_DN])
    drawn = drawn + rng.normal(0.0, np.hypot(noise_sd, SEED_SD), len(drawn))
    low, value, high = (float(one) for one in np.percentile(drawn, [2.5, 50, 97.5]))
    return Prediction(value, low, high)


def _one(sizes_N: np.ndarray, values_N: np.ndarray, target: int, rng: np.random.Generator) -> float:
    sd_N = SEED_SD * (1 + SEED_GROWTH * (1 - values_N).clip(0.0, 1.0))
    moved_N = values_N + rng.normal(0.0, sd_N)
    if target <= sizes_N[-1]:
        return float(np.interp(target, sizes_N, moved_N))
    # What is left to learn, c - value, is a (n / largest)^-b: a by least squares for every (b, c), never below 0.
    limits_C = np.linspace(min(moved_N.max(), LIMIT_MAX), LIMIT_MAX, LIMITS)
    shape_BN = (sizes_N / sizes_N[-1]) ** -EXPONENTS_B[:, None]
    gap_CN = limits_C[:, None] - moved_N
    a_BC = np.maximum(shape_BN @ gap_CN.T / (shape_BN**2).sum(1)[:, None], 0.0)
    off_BCN = gap_CN - a_BC[..., None] * shape_BN[:, None]
    misfit_BC = ((off_BCN / sd_N) ** 2).sum(-1) / 2
    weight_BC = np.exp(misfit_BC.min() - misfit_BC)
    chosen = int(rng.choice(weight_BC.size, p=weight_BC.ravel() / weight_BC.sum()))
    b, c = divmod(chosen, LIMITS)
    return float(limits_C[c] - a_BC[b, c] * (target / sizes_N[-1]) ** -EXPONENTS_B[b])
