"""What earlier searches say about a new one: their trials where the recipe is the same, else their best points.

The meta-recommendation is deliberately plain: the points that were in the best quarter of an earlier search, best
first, are tried before the searcher draws. Whether that beats random first points is measured by
`tests/benchmarks/test_search.py` and said in its record either way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cluster.errors import InputError
from cluster.recipe import Recipe
from cluster.recipe.explain import nearest
from cluster.store import Store
from tuning.space import Point, Space
from tuning.trials import Ended

BEST_SHARE = 0.25
POINTS_MAX = 5  # per earlier search


def read(store: Store, name: str) -> dict[str, Any]:
    """The record of an earlier search. Raises InputError with the nearest known name."""
    record = store.read_record(f"searches/{name}")
    if record is None:
        known = [one.partition("/")[2] for one in store.records("searches/")]
        near = nearest(name, known)
        raise InputError(
            f"no search {name} in the store", expected=", ".join(known) or "(no searches yet)",
            hint=f"did you mean {near}?" if near else None,
        )  # fmt: skip
    return record


def points(space: Space, store: Store, names: Sequence[str]) -> Sequence[Point]:
    """Points to try first: of every earlier search on other students the best ones, laid over this recipe's own."""
    found: list[Point] = []
    for name in names:
        record = read(store, name)
        if not _same_students(space, record):
            found += [{**space.base, **_known(space, point)} for point in best(record["trials"])]
    return found


def known(space: Space, store: Store, names: Sequence[str]) -> Sequence[Ended]:
    """Trials of earlier searches on the same recipe: as good as this search's own."""
    records = [read(store, name) for name in names]
    return [
        Ended(trial["point"], objectives=trial["objectives"])
        for record in records
        if _same_students(space, record)
        for trial in record["trials"]
        if trial["status"] == "done" and set(trial["point"]) == set(space.knobs)
    ]


def best(trials: Sequence[Mapping[str, Any]]) -> Sequence[Point]:
    """The points of the best quarter by quality, best first, at most POINTS_MAX."""
    done = sorted((one for one in trials if one["status"] == "done"), key=lambda one: -one["objectives"]["quality"])
    return [one["point"] for one in done[: min(POINTS_MAX, max(1, round(BEST_SHARE * len(done))))]]


def _same_students(space: Space, record: Mapping[str, Any]) -> bool:
    """Whether it searched around this recipe on these very rows; one that does not say on which did not."""
    from tuning.search import students

    same = Recipe.parse(record["recipe"]).fingerprint() == space.recipe.fingerprint()
    return same and "students" in record and record["students"] == students(space.recipe)


def _known(space: Space, point: Point) -> dict[str, Any]:
    return {name: value for name, value in point.items() if name in space.knobs}
