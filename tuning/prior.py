"""What the store's past says about a new search: trials of the same students, and points worth to be tried first.

The meta-recommendation is deliberately plain: the points that were in the best quarter of an earlier search, and those
of finished runs whose recipe lies in the space, are tried before the searcher draws. Whether that beats random first
points is measured by `tests/benchmarks/test_search.py` and said in its record either way; what a search began with,
and whether its best trial came from there, is said in its report (`told`).
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cluster.errors import InputError, RecipeError
from cluster.recipe import Recipe
from cluster.recipe.explain import nearest
from cluster.store import Artifact, Store
from jobs import generate
from tuning.space import Point, Space, same
from tuning.trials import Ended

ALL, NONE = "all", "none"
BEST_SHARE = 0.25
POINTS_MAX = 5  # per search that is named; of all together where none is
REPORT = "report.json"


@dataclass(frozen=True)
class Source:
    """An earlier search or run: the points that it gives to be tried first, best first, and where it was of the same
    students all that it tried."""

    kind: str
    name: str
    points: Sequence[Point]
    known: Sequence[Ended] = ()

    def facts(self) -> dict[str, Any]:
        """JSON-ready."""
        points = [dict(point) for point in self.points]
        return {"kind": self.kind, "name": self.name, "points": points, "known": len(self.known)}


@dataclass(frozen=True)
class Prior:
    """What a search begins with. `unreadable`: records of another version of this code, which are left out."""

    sources: Sequence[Source] = ()
    unreadable: Sequence[str] = field(default_factory=tuple)

    @property
    def points(self) -> Sequence[Point]:
        """What is tried first, the best of every source before the second best of any."""
        return [point for _, point in _turns(self.sources)]

    @property
    def known(self) -> Sequence[Ended]:
        """Trials of the same students elsewhere, those that are tried first here among them."""
        return [ended for source in self.sources for ended in source.known]

    def facts(self) -> dict[str, Any]:
        """JSON-ready, for the search's record."""
        return {"sources": [source.facts() for source in self.sources], "unreadable": list(self.unreadable)}


def check(store: Store, names: Sequence[str]) -> None:
    """Raises InputError where `--warm-from` names no search, or `all` or `none` beside others."""
    if len(names) > 1 and {ALL, NONE} & set(names):
        raise InputError("--warm-from all and none stand alone", got=", ".join(names), expected="one, or names")
    for name in names:
        if name not in (ALL, NONE):
            read(store, name)


def read(store: Store, name: str) -> dict[str, Any]:
    """The record of an earlier search. Raises InputError with the nearest known name."""
    record = store.read_record(f"searches/{name}")
    if record is None:
        known = _searches(store)
        near = nearest(name, known)
        raise InputError(
            f"no search {name} in the store", expected=", ".join(known) or "(no searches yet)",
            hint=f"did you mean {near}?" if near else None,
        )  # fmt: skip
    return record


def learn(space: Space, store: Store, names: Sequence[str], own: str) -> Prior:
    """The prior of `--warm-from`: `none`, searches by name, or `all` of the store that speak of the same knobs, but the
    search `own` itself. Raises InputError where a name is none."""
    if NONE in names:
        return Prior()
    if ALL not in names:
        return Prior([_search(space, read(store, name), name) for name in names])
    sources, unreadable = [], []
    for name in _searches(store):
        if name == own:
            continue
        record = read(store, name)
        recipe = _recipe(record)
        if recipe is None:
            unreadable.append(name)
        elif alike(space.recipe, recipe):
            sources.append(_search(space, record, name))
    sources += _runs(space, store)
    return Prior(_shortened([one for one in sources if one.points or one.known]), unreadable)


def alike(one: Recipe, other: Recipe) -> bool:
    """Whether knobs of the same names turn the same things: the same task, kind of student and stages."""

    def frame(recipe: Recipe) -> list[Any]:
        return [recipe.task, recipe.student.architecture, [stage.name for stage in recipe.distill.stages]]

    return frame(one) == frame(other)


def best(trials: Sequence[Mapping[str, Any]]) -> Sequence[Point]:
    """The points of the best quarter by quality, best first, at most POINTS_MAX."""
    done = sorted((one for one in trials if one["status"] == "done"), key=lambda one: -one["objectives"]["quality"])
    return [one["point"] for one in done[: min(POINTS_MAX, max(1, round(BEST_SHARE * len(done))))]]


def _searches(store: Store) -> list[str]:
    return [one.partition("/")[2] for one in store.records("searches/")]


def _recipe(record: Mapping[str, Any]) -> Recipe | None:
    """The recipe of a record; None where this version of the code has other knobs."""
    try:
        return Recipe.parse(record["recipe"])
    except RecipeError:
        return None


def _search(space: Space, record: Mapping[str, Any], name: str) -> Source:
    """An earlier search: its best points, laid over this recipe's own values as far as this space allows them."""
    laid = [{**space.base, **space.inside(point)} for point in best(record["trials"])]
    known = [
        Ended(trial["point"], objectives=trial["objectives"])
        for trial in record["trials"]
        if trial["status"] == "done" and set(trial["point"]) == set(space.knobs)
    ]
    return Source("search", name, _new(space, laid), known if _same_students(space, record) else ())


def _runs(space: Space, store: Store) -> list[Source]:
    """Finished runs on these rows whose recipe differs from this one in knobs alone, the best one first.

    By the last stage's validation metric: a run's report is of test rows, and no search looks at those.
    """
    found: list[tuple[float, Source]] = []
    for name in store.records("runs/"):
        record = store.read_record(name)
        recipe = _recipe(record) if record is not None and "report" in record["artifacts"] else None
        if record is None or recipe is None or not alike(space.recipe, recipe):
            continue
        point = space.point_of(recipe)
        if point is None or not _new(space, [point]):
            continue
        made = record["artifacts"]
        report = store.find("report", made["report"]) if generate.STEP.id(recipe) == made["samples"] else None
        if report is not None:
            found.append((-_validated(report), Source("run", name.partition("/")[2], [point])))
    return [source for _, source in sorted(found, key=lambda one: (one[0], one[1].name))]


def _validated(report: Artifact) -> float:
    """The student's primary metric on validation rows when its training ended, from a run's report."""
    told = json.loads((report.path() / REPORT).read_text())
    return float(next(iter(told["stages"][-1]["after"].values())))


def _new(space: Space, points: Sequence[Point]) -> list[Point]:
    """Those that are not the recipe as it is (which is tried anyhow), each once."""
    return [
        point for at, point in enumerate(points)
        if not same(point, space.base) and not any(same(point, one) for one in points[:at])
    ]  # fmt: skip


def _turns(sources: Sequence[Source]) -> Iterator[tuple[int, Point]]:
    """(place of the source, its point): everybody's best, then everybody's second, every point once."""
    given: list[Point] = []
    for row in itertools.zip_longest(*(source.points for source in sources)):
        for place, point in enumerate(row):
            if point is not None and not any(same(point, one) for one in given):
                given.append(point)
                yield place, point


def _shortened(sources: Sequence[Source]) -> Sequence[Source]:
    """At most POINTS_MAX points of all together, so that a store with a long past leaves trials to the searcher."""
    kept = list(itertools.islice(_turns(sources), POINTS_MAX))
    short = [
        Source(source.kind, source.name, [point for at, point in kept if at == place], source.known)
        for place, source in enumerate(sources)
    ]
    return [source for source in short if source.points or source.known]


def _same_students(space: Space, record: Mapping[str, Any]) -> bool:
    """Whether it searched around this recipe on these very rows; one that does not say on which did not."""
    from tuning import objective  # it imports torch

    recipe = _recipe(record)
    same = recipe is not None and recipe.fingerprint() == space.recipe.fingerprint()
    return same and "students" in record and record["students"] == objective.students(space.recipe)


def origin(prior: Mapping[str, Any], trial: Mapping[str, Any]) -> str | None:
    """Where a trial's point came from, by the facts of a prior: "search NAME", "run NAME", None for the searcher."""
    for source in prior["sources"]:
        if any(same(point, trial["point"]) for point in source["points"]):
            return f"{source['kind']} {source['name']}"
    return None
