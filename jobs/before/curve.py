"""A learning curve from a few sizes, and what it says about a larger one, with how unsure that is.

Two laws: the power law value(n) = c - k n^-b (Hestness et al. 2017, arXiv 1712.00409), and for pilots that are still at
the foot of a curve the sigmoid value(n) = a + (c - a) n^b / (m^b + n^b) (Morgan, Mercer & Flodin 1975; in the review of
Viering & Loog 2021, arXiv 2103.10948), which has that power law as its tail. Four points fix no law's numbers, so none
is picked: every point of a grid counts by how well it fits, and a prediction is drawn from all of them.
Shape legend: D draws, N sizes, R rows, B exponents, C limits, A starts, M middles, L points of a law's grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

EXPONENTS_B = np.linspace(0.1, 1.5, 15)
SIGMOID_EXPONENTS_B = np.linspace(0.3, 1.5, 9)
LIMIT_MAX = 1.03  # a student may end a little above its teacher
LIMITS, SIGMOID_LIMITS, STARTS, MIDDLES = 32, 16, 4, 32
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
    laws = [law(sizes_N, moved_N, sd_N, target) for law in (_power, _sigmoid)]
    least = min(misfit_L.min() for misfit_L, _ in laws)
    weight_L = np.concatenate([np.exp(least - misfit_L) / len(misfit_L) for misfit_L, _ in laws])
    found_L = np.concatenate([found_L for _, found_L in laws])
    return float(found_L[rng.choice(len(found_L), p=weight_L / weight_L.sum())])


def _power(sizes_N: np.ndarray, moved_N: np.ndarray, sd_N: np.ndarray, target: int) -> tuple[np.ndarray, np.ndarray]:
    """Misfit (-log likelihood) of every (b, c) with its best k, and its value at `target`, both float64 [L]."""
    # What is left to learn, c - value, is k (n / largest)^-b: k by least squares for every (b, c), never below 0.
    limits_C = np.linspace(min(moved_N.max(), LIMIT_MAX), LIMIT_MAX, LIMITS)
    shape_BN = (sizes_N / sizes_N[-1]) ** -EXPONENTS_B[:, None]
    gap_CN = limits_C[:, None] - moved_N
    k_BC = np.maximum(shape_BN @ gap_CN.T / (shape_BN**2).sum(1)[:, None], 0.0)
    off_BCN = gap_CN - k_BC[..., None] * shape_BN[:, None]
    found_BC = limits_C - k_BC * (target / sizes_N[-1]) ** -EXPONENTS_B[:, None]
    return ((off_BCN / sd_N) ** 2).sum(-1).ravel() / 2, found_BC.ravel()


def _sigmoid(sizes_N: np.ndarray, moved_N: np.ndarray, sd_N: np.ndarray, target: int) -> tuple[np.ndarray, np.ndarray]:
    """The same of every (a, c, b, m): starts from 0 to just below the least value, middles from below the first size to
    beyond `target`."""
    starts_A = np.linspace(0.0, 0.9 * max(moved_N.min(), 0.0), STARTS)
    limits_C = np.linspace(min(max(moved_N.max(), 0.0), LIMIT_MAX), LIMIT_MAX, SIGMOID_LIMITS)
    middles_M = np.geomspace(sizes_N[0] / 4, 4 * target, MIDDLES)
    sizes_N = np.append(sizes_N, target)
    odds_BMN = (sizes_N / middles_M[:, None]) ** SIGMOID_EXPONENTS_B[:, None, None]
    rise_AC = limits_C - starts_A[:, None]
    law_ACBMN = starts_A[:, None, None, None, None] + rise_AC[..., None, None, None] * (odds_BMN / (1 + odds_BMN))
    misfit_ACBM = (((law_ACBMN[..., :-1] - moved_N) / sd_N) ** 2).sum(-1) / 2
    return misfit_ACBM.ravel(), law_ACBMN[..., -1].ravel()
