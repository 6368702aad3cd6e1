"""Whether confidence means something: the reliability curve, its errors, and the temperature that repairs it.

Shape legend: R rows, A positions of an answer, V vocabulary or classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
BINS = 10
RANGE = (0.125, 8.0)  # temperatures searched: three doublings either way
GRID, ROUNDS = 33, 3  # points of one search, each round between the neighbours of the best of the last


def curve(right_R: Array, confidence_R: Array, bins: int = BINS) -> dict[str, Any]:
    """`ece` and `mce`, the mean and the largest gap between confidence and share right over equal-width bins (arXiv
    1706.04599, equations 3 and 5), `brier` (mean squared gap of single rows), and the `bins` that hold rows: lower and
    upper edge, rows, mean confidence, share right. All 0 to 1."""
    place_R = np.minimum((confidence_R * bins).astype(int), bins - 1)
    filled: list[dict[str, Any]] = []
    for index in np.unique(place_R):
        own = place_R == index
        means = {"confidence": float(confidence_R[own].mean()), "right": float(right_R[own].mean())}
        filled.append({"low": index / bins, "high": (index + 1) / bins, "rows": int(own.sum()), **means})
    gaps = [abs(one["right"] - one["confidence"]) for one in filled]
    weighted = sum(gap * one["rows"] for gap, one in zip(gaps, filled, strict=True))
    brier = float(((confidence_R - right_R) ** 2).mean())
    return {"ece": float(weighted / len(right_R)), "mce": max(gaps), "brier": brier, "bins": filled}


def confidences(logits: Sequence[Array], temperature: float = 1.0) -> Array:
    """exp(mean over the answer's positions of the chosen token's log-probability) at a temperature, float64 [R]; the
    largest class probability where an answer is one position. `logits` are [A, V] per row."""
    return np.array([np.exp(_chosen(own_AV / temperature).mean()) for own_AV in logits])


def temperature_of_classes(logits_RV: Array, truth_R: Array) -> float:
    """The T whose softmax(logits / T) gives the true classes the least mean cross entropy (arXiv 1706.04599, 4.2)."""

    def loss(temperature: float) -> float:
        scaled_RV = logits_RV.astype(np.float64) / temperature
        return float((_lse(scaled_RV) - scaled_RV[np.arange(len(truth_R)), truth_R]).mean())

    return _searched(loss)


def temperature_of_answers(logits: Sequence[Array], right_R: Array) -> float:
    """The T whose `confidences` bet best on whether whole answers are right: least mean log loss of that yes or no.

    What is left of temperature scaling where an answer is many tokens and the truth may be none that was scored.
    """

    def loss(temperature: float) -> float:
        sure_R = np.clip(confidences(logits, temperature), 1e-12, 1 - 1e-12)
        return float(-np.where(right_R, np.log(sure_R), np.log1p(-sure_R)).mean())

    return _searched(loss)


def _searched(loss: Callable[[float], float]) -> float:
    """The best point of a grid in log T, refined: the loss of answers may have more than one valley."""
    low, high = np.log(RANGE)
    best = 0.0
    for _ in range(ROUNDS):
        grid = np.linspace(low, high, GRID)
        best = float(grid[int(np.argmin([loss(float(np.exp(point))) for point in grid]))])
        step = (high - low) / (GRID - 1)
        low, high = max(best - step, np.log(RANGE[0])), min(best + step, np.log(RANGE[1]))
    return float(np.exp(best))


def _lse(logits_AV: Array) -> Array:
    peak_A1 = logits_AV.max(-1, keepdims=True)
    return np.asarray(peak_A1[:, 0] + np.log(np.exp(logits_AV - peak_A1).sum(-1, dtype=np.float64)))


def _chosen(logits_AV: Array) -> Array:
    """Log-probability of the likeliest token at each position, float64 [A]."""
    return np.asarray(logits_AV.max(-1) - _lse(logits_AV), np.float64)
