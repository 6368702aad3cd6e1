"""`jobs diff A B`: two models asked the same rows, and the named slices on which they disagree.

Never on the test rows unless that is asked for: what is repaired by looking at them is no longer measured by them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cluster.errors import InputError
from cluster.recipe import Recipe
from cluster.store import Store
from jobs import tasks
from jobs.after.diff import facets, repair, sides, slices
from jobs.after.diff.sides import Asked, Said
from jobs.measure import bootstrap
from jobs.measure.shares import wilson

DRAWS = 1000  # behind the interval of the difference in quality


@dataclass(frozen=True)
class Wanted:
    """What the command is given: two names (one: teacher and student of its run), the split, and how many rows at
    most."""

    one: str
    other: str | None = None
    split: str = "validation"
    max_rows: int | None = None


def compare(store: Store, wanted: Wanted) -> dict[str, Any]:
    """Ask both models the rows and find where they disagree: see `document`.

    Raises InputError: an unknown model, split or task; MismatchError where the two answer other questions.
    """
    one, other = sides.both(store, wanted.one, wanted.other)
    recipe = _recipe(one, other)
    rows = sides.rows_of(recipe, wanted.split, wanted.max_rows, recipe.seed)
    said = sides.ask(one, rows), sides.ask(other, rows)
    names = {"first": one.name, "second": other.name}
    told = {"split": wanted.split, "recipe": recipe.name, **names}
    return told | document(recipe, rows, *said)


def document(recipe: Recipe, rows: Asked, one: Said, other: Said) -> dict[str, Any]:
    """Rows, disagreements, rate with interval, quality of both where the truth is known, and `slices`, each with the
    `generate` section that would repair it (null where no request shows that it belongs there)."""
    differ_R = np.array([a != b for a, b in zip(one.texts, other.texts, strict=True)], bool)
    low, high = wilson(int(differ_R.sum()), len(rows))
    found = slices.find(facets.all_of(rows, one, other, _embeddings(recipe, rows)), one, other)
    told = [
        slices.told(slice_, rows, one, other) | {"repair": repair.section(recipe, slice_, rows, one, other)}
        for slice_ in found
    ]
    rate = {"rows": len(rows), "disagreements": int(differ_R.sum()), "rate": float(differ_R.mean())}
    return {**rate, "low": low, "high": high, "quality": _quality(rows, one, other, recipe.seed), "slices": told}


def _recipe(one: sides.Side, other: sides.Side) -> Recipe:
    """Whose rows are asked: the second model's recipe, else the first's."""
    recipe = other.recipe or one.recipe
    if recipe is None:
        got = f"{one.name}, {other.name}"
        raise InputError("no rows to ask: no run of this store made these", got=got, expected="one that a run made")
    return recipe


def _embeddings(recipe: Recipe, rows: Asked) -> np.ndarray | None:
    """Unit vectors [R, E] that rows are grouped by; None for too few rows, or where their pictures were not kept."""
    seen = recipe.task == "text_classification" or not rows.table["images"].null_count
    if len(rows) < 2 * facets.CLUSTER_ROWS or not seen:
        return None
    return tasks.of(recipe).embeddings(rows.table)


def _quality(rows: Asked, one: Said, other: Said, seed: int) -> Mapping[str, Any] | None:
    """Share right of both over the rows whose truth is known, second minus first with its paired 95 % interval, and
    how many rows only one of them has right."""
    known = [row for row, truth in enumerate(rows.truth) if truth is not None]
    if not known:
        return None
    first, second = (np.array([said.texts[row] == rows.truth[row] for row in known], bool) for said in (one, other))
    change = bootstrap.difference(second, first, DRAWS, seed)
    only = {"only_first": int((first & ~second).sum()), "only_second": int((second & ~first).sum())}
    return {"rows": len(known), "first": float(first.mean()), "second": float(second.mean()), "change": change, **only}
