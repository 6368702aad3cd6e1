"""Whether a rate in a slice stands out when hundreds of slices were looked at.

Shape legend: S slices.
"""

from __future__ import annotations

import numpy as np


def more_than_elsewhere(hits: int, rows: int, all_hits: int, all_rows: int) -> float:
    """Chance of `hits` or more among `rows` drawn from `all_rows` of which `all_hits` are hits (Fisher's exact test,
    one-sided: hypergeometric)."""
    from scipy.stats import hypergeom

    return float(hypergeom.sf(hits - 1, all_rows, all_hits, rows))


def more_than_rate(hits: int, rows: int, rate: float) -> float:
    """Chance of `hits` or more of `rows` at this rate (exact binomial test, one-sided)."""
    from scipy.stats import binom

    return float(binom.sf(hits - 1, rows, min(1.0, rate)))


def false_discovery(p_S: np.ndarray) -> np.ndarray:
    """q values float64 [S]: the share of false finds when everything at least as clear is called a find (Benjamini and
    Hochberg 1995; valid for the positively dependent tests that overlapping slices are)."""
    count = len(p_S)
    order = np.argsort(p_S, kind="stable")
    scaled = p_S[order] * count / np.arange(1, count + 1)
    q_S = np.empty(count)
    q_S[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    return q_S
