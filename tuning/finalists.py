"""The best trials of a search once more, with seeds that did not choose them, beside the recipe as it was.

The best of many trials is also the luckiest one. So the finalists and the recipe as it was are trained again with S
other seeds of the student, and those alone decide. Of two means over S seeds each the difference d has the variance
    2 s^2 / S + v,
with s^2 the variance of quality between seeds, pooled over all finalists, and v that of d over the validation rows. Its
95 % interval is d +- t sqrt(2 s^2 / S + v), where t is Student's with the S - 1 degrees of freedom of each finalist.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, variance
from typing import Any

from cluster.recipe import Recipe
from cluster.store import Store
from jobs.measure.bootstrap import Interval
from tuning import objective
from tuning.ledger import DONE, Ledger
from tuning.ranking import compared, ranked
from tuning.space import Point, Space, same

NORMAL = 1.96  # half a 95 % interval of the rows over its standard error


@dataclass(frozen=True)
class Finalist:
    """A point and its trials with the further seeds, as contents of `trial.json`, in the order of the seeds."""

    point: Point
    preset: bool
    trials: Sequence[Mapping[str, Any]]

    @property
    def qualities(self) -> list[float]:
        """One a seed."""
        return [one["quality"] for one in self.trials]

    @property
    def objectives(self) -> dict[str, float]:
        """Means over the seeds."""
        return {name: mean(one[name] for one in self.trials) for name in ("quality", "latency_ms", "bytes")}


def seeds(recipe: Recipe) -> list[int]:
    """Seeds of the student that no trial of the search had."""
    own = recipe.seed if recipe.distill.seed is None else recipe.distill.seed
    return [own + number for number in range(1, recipe.search.confirm_seeds + 1)]


def points(space: Space, ledger: Ledger) -> list[Point]:
    """What is trained again: the best finished trials, then the recipe as it was; nothing where nothing else was
    finished, or it was not tried."""
    section, done = space.recipe.search, [one for one in ledger.trials if one["status"] == DONE]
    others = [one["point"] for one in ranked(done, space.recipe) if not same(one["point"], space.base)]
    tried = any(same(one["point"], space.base) for one in ledger.trials)
    best = others[: section.finalists] if section.confirm_seeds and tried else []
    return [*best, space.base] if best else []


def missing(space: Space, store: Store, ledger: Ledger) -> list[tuple[Point, int]]:
    """Return the finalists with the seeds that they are not yet trained with, and were not found to fail with."""
    failed = [(one["point"], one["seed"]) for one in ledger.failed_finals]
    return [
        (point, seed)
        for point, seed in itertools.product(points(space, ledger), seeds(space.recipe))
        if objective.find(space, store, point, seed) is None
        and not any(same(point, other) and seed == tried for other, tried in failed)
    ]


def read(space: Space, store: Store, ledger: Ledger) -> list[Finalist]:
    """The finalists that were trained with every seed, the best first; empty without the recipe as it was and one to
    compare with it."""
    found = []
    for point in points(space, ledger):
        trials = [objective.find(space, store, point, seed) for seed in seeds(space.recipe)]
        whole = [objective.content(trial) for trial in trials if trial is not None]
        if len(whole) == len(trials):
            found.append(Finalist(point, same(point, space.base), whole))
    if {one.preset for one in found} != {True, False}:
        return []
    by_rank = ranked([{"objectives": one.objectives, "own": one} for one in found], space.recipe)
    return [one["own"] for one in by_rank]


def difference(one: Finalist, other: Finalist, among: Sequence[Finalist], seed: int) -> Interval:
    """Mean quality of a finalist minus another's, and its 95 % interval over seeds and rows (the module's equation)."""
    from scipy.stats import t

    by_seed = [compared(a, b, seed) for a, b in zip(one.trials, other.trials, strict=True)]
    value, count = mean(one.qualities) - mean(other.qualities), len(by_seed)
    between = mean(variance(each.qualities) for each in among)
    half = mean(((found["high"] or 0.0) - (found["low"] or 0.0)) / 2 for found in by_seed)
    error = math.sqrt(2 * between / count + (half / NORMAL) ** 2)
    reach = float(t.ppf(0.975, len(among) * (count - 1))) * error
    return {"value": value, "low": value - reach, "high": value + reach}


def told(finalists: Sequence[Finalist], numbers: Sequence[int], recipe: Recipe) -> dict[str, Any] | None:
    """What `search.json` says of them, the best first; None where nothing was trained again."""
    if not finalists:
        return None
    each = [{"number": number, "preset": one.preset, "qualities": one.qualities, "objectives": one.objectives}
            for number, one in zip(numbers, finalists, strict=True)]  # fmt: skip
    return {"seeds": seeds(recipe), "finalists": each}
