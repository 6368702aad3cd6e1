"""Scores of ranked answers: how far up the list the true one stands.

Shape legend: R rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from serving.bundle.answer import Answer

DEPTHS = (1, 5, 10)


def ranking_scores(rank_R: np.ndarray) -> dict[str, float]:
    """`recall_at_1`, `_5` and `_10` (share of rows whose true answer is among the first) and `mrr` (mean of 1 / rank),
    0 to 1, of ranks from 1; an infinite rank was not found."""
    recall = {f"recall_at_{depth}": float((rank_R <= depth).mean()) for depth in DEPTHS}
    return recall | {"mrr": float((1.0 / rank_R).mean())}


def measured(truth: Sequence[str], answers: Sequence[Answer]) -> dict[str, float]:
    """`ranking_scores` of answers that name entries in order, as far down as they go."""
    return ranking_scores(ranks(truth, answers))


def ranks(truth: Sequence[str], answers: Sequence[Answer]) -> np.ndarray:
    """The place of each row's truth in the order of its answer's `probabilities`, float64 [R] from 1; infinity where it
    is not among them."""
    found = []
    for true, given in zip(truth, answers, strict=True):
        named = list(given.probabilities or {given.text: given.confidence})
        found.append(named.index(true) + 1.0 if true in named else np.inf)
    return np.array(found)
