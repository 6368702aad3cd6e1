"""Time at batch 1 with pre-processing: all models take short turns, so that noise hits them alike.

A turn is a few requests, not one: a server has one student, whose five megabytes stay in the processor's caches. With
turns of one request a teacher of 90 MB in float32 empties them before each, and a student takes twice its time.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from serving.bundle import predict

WARM_UP = 10  # requests per model that are not counted
TURN = 20  # requests that a model answers before the next one does
PERCENTILES = (50, 95, 99)


class Engine(Protocol):
    """What is timed: encoded request in, answer out."""

    def predict(self, items: Sequence[Mapping[str, Any]]) -> list[predict.Answer]:
        """Answers in order."""


def interleaved(
    engines: Mapping[str, Engine], items: Sequence[Mapping[str, Any]], seed: int
) -> dict[str, dict[str, float]]:
    """Per engine p50, p95 and p99 of one request (ms). Every engine answers every item once, TURN at a time; who
    goes first changes from turn to turn."""
    names, rng = list(engines), np.random.default_rng(seed)
    for item in items[:WARM_UP]:
        for name in names:
            engines[name].predict([item])
    took: dict[str, list[float]] = {name: [] for name in names}
    for start in range(0, len(items), TURN):
        for index in rng.permutation(len(names)):
            name = names[index]
            for item in items[start : start + TURN]:
                started = time.perf_counter()
                engines[name].predict([item])
                took[name].append((time.perf_counter() - started) * 1000)
    return {name: {f"p{p}": float(np.percentile(took[name], p)) for p in PERCENTILES} for name in names}


def chosen(items: Sequence[Mapping[str, Any]], count: int, seed: int) -> list[Mapping[str, Any]]:
    """`count` items in random order, repeated where there are fewer."""
    rng = np.random.default_rng([seed, count])
    order: list[int] = []
    while len(order) < count:
        order += rng.permutation(len(items)).tolist()
    return [items[row] for row in order[:count]]
