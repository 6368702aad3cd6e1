"""95 % intervals of single metrics from resampled rows (percentile bootstrap, as `bootstrap` has it).

Shape legend: R rows, D draws, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from jobs.measure.bootstrap import CHUNK, Interval

Array = np.ndarray[Any, Any]


def measure(
    truth: Sequence[str], answers: Sequence[str], teacher: Sequence[str], primary: str, draws: int, seed: int
) -> dict[str, Interval]:
    """`primary` (share right), `macro_f1` and `agreement` with the teacher, each `value`, `low`, `high`; the same seed
    draws the same rows for every model. {} with `draws` 0."""
    if not draws:
        return {}
    truth_R, given_R, teacher_R = (np.array(texts) for texts in (truth, answers, teacher))
    names = np.unique(truth_R)
    right_R, same_R = given_R == truth_R, given_R == teacher_R
    true_RC, given_RC = truth_R[:, None] == names, given_R[:, None] == names
    columns = np.concatenate([right_R[:, None], same_R[:, None], true_RC & given_RC, true_RC, given_RC], 1)
    rng, rows, classes = np.random.default_rng(seed), len(truth_R), len(names)
    everything = _metrics(np.ones((1, rows)), columns.astype(np.float32), classes)
    found = []
    for start in range(0, draws, CHUNK):
        counts_DR = rng.multinomial(rows, np.full(rows, 1 / rows), size=min(CHUNK, draws - start))
        found.append(_metrics(counts_DR, columns.astype(np.float32), classes))
    all_D3 = np.concatenate(found)
    bounds = np.percentile(all_D3, [2.5, 97.5], axis=0)
    return {
        name: {"value": float(everything[0, place]), "low": float(bounds[0, place]), "high": float(bounds[1, place])}
        for place, name in enumerate((primary, "macro_f1", "agreement"))
    }


def _metrics(counts_DR: Array, columns: Array, classes: int) -> Array:
    """Per draw the share right, macro-F1 over the classes drawn, and agreement: float64 [D, 3]."""
    sums = (counts_DR.astype(np.float32) @ columns).astype(np.float64)
    right_D, same_D = sums[:, 0], sums[:, 1]
    hits_DC, true_DC, given_DC = np.split(sums[:, 2:], [classes, 2 * classes], axis=1)
    drawn_DC = true_DC > 0
    f1_DC = np.where(drawn_DC, 2 * hits_DC / np.maximum(true_DC + given_DC, 1), 0.0)
    rows_D = counts_DR.sum(1)
    return np.stack([right_D / rows_D, f1_DC.sum(1) / drawn_DC.sum(1), same_D / rows_D], 1)
