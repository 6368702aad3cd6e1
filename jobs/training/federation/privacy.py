"""What a site gives away with its soft labels, and the Gaussian noise that bounds it.

The neighbours are two whole data sets of a site: a release is (epsilon, delta)-private for everything that the site
holds, so for each of its records too. No trust in the server and no clipping inside the training is assumed.
"""

from __future__ import annotations

import math

import numpy as np

from cluster.errors import InputError

PRECISION = 1e-6  # relative, of the noise


def sensitivity(rows: int) -> float:
    """Return how far `rows` probability vectors may move together (L2) when a site's data is another one.

    Two points of the simplex are at most sqrt(2) apart, and the rows' squares add up.
    """
    return math.sqrt(2.0 * rows)


def delta_of(epsilon: float, sigma: float, moved: float) -> float:
    """Return the smallest delta at which Gaussian noise of deviation `sigma` is (epsilon, delta)-private.

    moved: L2 sensitivity. Balle and Wang, "Improving the Gaussian Mechanism for Differential Privacy", ICML 2018,
    theorem 8: exact, where the usual sqrt(2 ln(1.25 / delta)) is a bound that holds for epsilon < 1 alone.
    """
    from scipy.special import log_ndtr

    half, shift = moved / (2 * sigma), epsilon * sigma / moved
    return max(0.0, math.exp(log_ndtr(half - shift)) - math.exp(epsilon + log_ndtr(-half - shift)))


def noise_for(epsilon: float, delta: float, rows: int) -> float:
    """Return the least deviation (of each probability) at which `rows` vectors are (epsilon, delta)-private.

    Raises InputError for an epsilon of 0 or less, or a delta that is no probability.
    """
    if not (epsilon > 0 and 0 < delta < 1):
        raise InputError(
            "no privacy budget", got=f"epsilon {epsilon}, delta {delta}", expected="epsilon > 0, 0 < delta < 1"
        )
    moved = sensitivity(rows)
    low, high = 0.0, moved
    while delta_of(epsilon, high, moved) > delta:
        low, high = high, 2 * high
    while high - low > PRECISION * high:
        middle = (low + high) / 2
        if delta_of(epsilon, middle, moved) > delta:
            low = middle
        else:
            high = middle
    return high


def released(probabilities_RC: np.ndarray, sigma: float, seed: int) -> np.ndarray:
    """Return the probabilities float64 [R, C] with Gaussian noise on every entry; sigma 0: as they are."""
    if not sigma:
        return np.asarray(probabilities_RC, np.float64)
    noise_RC = np.random.default_rng(seed).normal(0.0, sigma, probabilities_RC.shape)
    return np.asarray(probabilities_RC + noise_RC, np.float64)


def onto_simplex(values_RC: np.ndarray) -> np.ndarray:
    """Return the nearest probability vectors float64 [R, C] (L2), row by row.

    What is done to a release costs no privacy. Duchi et al., "Efficient Projections onto the l1-Ball", ICML 2008,
    figure 1.
    """
    sorted_RC = -np.sort(-values_RC, axis=1)
    over_RC = (np.cumsum(sorted_RC, axis=1) - 1) / np.arange(1, values_RC.shape[1] + 1)
    last_R = (sorted_RC > over_RC).sum(axis=1) - 1
    return np.asarray(np.maximum(values_RC - over_RC[np.arange(len(values_RC)), last_R][:, None], 0.0))
