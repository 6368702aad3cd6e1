"""Which of two trials is better, and how sure that is on the validation rows that both were measured on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cluster.recipe import Recipe
from jobs.before import likely
from jobs.before.worth import right_of
from jobs.measure import bootstrap, next_tokens

DRAWS = 2000


def ranked(found: Sequence[Mapping[str, Any]], recipe: Recipe) -> list[Mapping[str, Any]]:
    """Those with `objectives`, the best first: the highest quality, of equal ones the fastest, then the smallest. What
    is beyond the recipe's own gates for size or latency comes after everything that is not."""
    gates = recipe.evaluate.gates

    def rank(one: Mapping[str, Any]) -> tuple[bool, float, float, float]:
        worth = one["objectives"]
        too_large = gates.bytes_max is not None and worth["bytes"] > gates.bytes_max
        too_slow = gates.latency_p95_ms is not None and worth["latency_ms"] > gates.latency_p95_ms
        return too_large or too_slow, -worth["quality"], worth["latency_ms"], worth["bytes"]

    return sorted(found, key=rank)


def compared(one: Mapping[str, Any], other: Mapping[str, Any], seed: int) -> bootstrap.Interval:
    """Quality of a trial minus another's (contents of `trial.json`), with its 95 % interval over the same rows: the
    share that is right, or the likelihood of the true texts."""
    if "nll" in one:
        return next_tokens.compared(likely.read(one), likely.read(other), np.subtract, DRAWS, seed)
    return bootstrap.difference(right_of(one), right_of(other), DRAWS, seed)


def rows_of(trial: Mapping[str, Any]) -> int:
    """Validation rows that a trial was measured on (count)."""
    return len(trial["nll"]) if "nll" in trial else len(right_of(trial))
