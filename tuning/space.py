"""The space of a search: named knobs over a recipe's fields, checked before Ray starts, and every point of it a recipe.

A point is a plain dict: knob name -> value. For the searcher every knob is a distribution; choices are known to it by
their index, so that any value may be one, and numbers in rising order are neighbours.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from cluster.canonical import canonical_json
from cluster.errors import InputError, RecipeError
from cluster.recipe import Knob, Recipe, changed

Point = Mapping[str, Any]
# Sections that decide what the teacher says: their artifacts are made once, before the first trial, for every choice.
SHARED = ("data", "teacher", "fit", "generate", "seed", "task")
SHARED_MAX = 16  # teachers and sample sets that a search makes before it begins
FIXED = ("name", "description", "promote", "evaluate", "serving", "resources", "search")


@dataclass(frozen=True)
class Space:
    """The knobs of a recipe's `search` section over the recipe itself."""

    recipe: Recipe

    @property
    def knobs(self) -> Mapping[str, Knob]:
        """Name -> what it may be."""
        return self.recipe.search.knobs

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """Name -> distribution, in the searcher's own terms."""
        return {name: _distribution(knob) for name, knob in self.knobs.items()}

    def point(self, inner: Mapping[str, Any]) -> dict[str, Any]:
        """The point behind the searcher's parameters."""
        return {
            name: knob.choice[int(inner[name])] if knob.choice is not None else inner[name]
            for name, knob in self.knobs.items()
        }

    def inner(self, point: Point) -> dict[str, Any] | None:
        """The searcher's parameters of a point; None where it lies outside of this space or lacks a knob."""
        found: dict[str, Any] = {}
        for name, knob in self.knobs.items():
            value = _inner(knob, point[name]) if name in point else None
            if value is None:
                return None
            found[name] = value
        return found

    def inside(self, point: Point) -> dict[str, Any]:
        """What a point of another search says of this space's knobs, as far as this space allows the values."""
        return {
            name: value for name, value in point.items()
            if name in self.knobs and _inner(self.knobs[name], value) is not None
        }  # fmt: skip

    def point_of(self, recipe: Recipe) -> dict[str, Any] | None:
        """The point whose recipe this one is, as far as a student's making goes; None where it lies outside of the
        space: in a knob's value, or in anything that is no knob."""
        plain = recipe.model_dump(mode="json", by_alias=True)
        try:
            point = {name: _value(plain, paths_of(name, knob)[0]) for name, knob in self.knobs.items()}
            inside = self.inner(point) is not None and _made(self._changed(point)) == _made(recipe)
        except (InputError, LookupError, ValueError, AttributeError):  # other free params: it has no such field
            return None
        return point if inside else None

    def build(self, point: Point) -> Recipe:
        """The recipe of a point. Raises InputError where a field or a step refuses it, or fields do not fit."""
        recipe = self._changed(point)
        if recipe != self.recipe:
            refuse(recipe)
        return recipe

    def _changed(self, point: Point) -> Recipe:
        values = {path: value for name, value in point.items() for path in paths_of(name, self.knobs[name])}
        return changed(self.recipe, values)

    @property
    def base(self) -> dict[str, Any]:
        """The recipe's own values of the knobs: the hand-made preset as a point (of several paths the first's)."""
        plain = self.recipe.model_dump(mode="json", by_alias=True)
        return {name: _value(plain, paths_of(name, knob)[0]) for name, knob in self.knobs.items()}

    def shared(self) -> Iterator[Recipe]:
        """One recipe for every combination of choices that changes what the teacher says; without such knobs, one."""
        names = [name for name, knob in self.knobs.items() if _is_shared(name, knob)]
        for values in itertools.product(*(self.knobs[name].choice or [] for name in names)):
            yield self.build(dict(zip(names, values, strict=True)))

    def check(self) -> None:
        """Refuse a space that cannot be searched. Raises InputError: no knobs, unknown paths, values a field refuses,
        or a range where every value would need a teacher of its own."""
        if not self.knobs:
            raise InputError(
                f"{self.recipe.name} declares nothing to search",
                expected="search.knobs in the recipe, or --space FILE",
                hint="search: {knobs: {distill.stages.0.learning_rate: {log: [1.0e-4, 1.0e-2]}}}",
            )
        for name, knob in self.knobs.items():
            self._check(name, knob)
        combinations = 1
        for name, knob in self.knobs.items():
            combinations *= len(knob.choice or [0]) if _is_shared(name, knob) else 1
        if combinations > SHARED_MAX:
            raise InputError(
                "too many teachers or sample sets", got=combinations, expected=f"at most {SHARED_MAX} combinations",
                hint=f"fewer choices below {', '.join(SHARED)}",
            )  # fmt: skip

    def ends(self) -> Iterator[Recipe]:
        """The recipe with each knob at each of its ends (or choices), one at a time."""
        for name, knob in self.knobs.items():
            for value in _ends(knob):
                yield self.build({name: value})

    def _check(self, name: str, knob: Knob) -> None:
        for path in paths_of(name, knob):
            if path.split(".")[0] in FIXED:
                raise RecipeError(f"search.knobs.{name}: {path} makes no other student", expected="any other field")
        if _is_shared(name, knob) and knob.choice is None:
            raise RecipeError(
                f"search.knobs.{name}: every value would need teacher and samples of its own", got="a range",
                expected="a choice of few values: what the teacher says is made once for each, for all trials",
            )  # fmt: skip
        for value in _ends(knob):
            for path in paths_of(name, knob):
                changed(self.recipe, {path: value})
        plain = self.recipe.model_dump(mode="json", by_alias=True)
        own = [_value(plain, path) for path in paths_of(name, knob)]
        if any(value != own[0] for value in own):
            raise RecipeError(
                f"search.knobs.{name}: the recipe as it is has other values at its paths", got=own,
                expected="one value at all of them, or a knob for each",
            )  # fmt: skip


def refuse(recipe: Recipe) -> None:
    """Refuse what the steps of a trial would refuse, as far as that can be told without reading data.

    Raises InputError.
    """
    from jobs import curate, export
    from jobs.training import checks, students
    from jobs.training.stages import check as stage_check

    stage_check.check(recipe, "distill", recipe.distill)
    curate.check(recipe)
    students.check(recipe)
    export.check(recipe)
    checks.check(recipe)


def paths_of(name: str, knob: Knob) -> Sequence[str]:
    """The recipe fields that a knob turns."""
    return knob.at or [name]


def same(one: Point, other: Point) -> bool:
    """Whether two points are the same, whatever kinds of numbers they are written with."""
    return canonical_json(dict(one)) == canonical_json(dict(other))


def _is_shared(name: str, knob: Knob) -> bool:
    return any(path.split(".")[0] in SHARED for path in paths_of(name, knob))


def _distribution(knob: Knob) -> BaseDistribution:
    if knob.log is not None:
        return FloatDistribution(knob.log[0], knob.log[1], log=True)
    if knob.between is not None:
        return FloatDistribution(knob.between[0], knob.between[1], step=knob.step)
    if knob.integer is not None:
        return IntDistribution(knob.integer[0], knob.integer[1], step=int(knob.step or 1))
    assert knob.choice is not None
    if _rising(knob.choice):
        return IntDistribution(0, len(knob.choice) - 1)
    return CategoricalDistribution(range(len(knob.choice)))


def _rising(values: Sequence[Any]) -> bool:
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    return numbers and all(low < high for low, high in itertools.pairwise(values))


def _inner(knob: Knob, value: Any) -> float | None:
    """The searcher's own value of one knob, None where the knob does not allow it."""
    if knob.choice is not None:
        if value not in knob.choice:
            return None
        value = knob.choice.index(value)
    return value if isinstance(value, int | float) and _contains(_distribution(knob), value) else None


def _made(recipe: Recipe) -> Mapping[str, Any]:
    """What of a recipe decides the student and its file."""
    return {name: value for name, value in recipe.identity().items() if name not in FIXED}


def _contains(distribution: BaseDistribution, value: float) -> bool:
    if isinstance(distribution, IntDistribution):
        at = (value - distribution.low) / distribution.step
        return distribution.low <= value <= distribution.high and at == int(at)
    if isinstance(distribution, FloatDistribution):
        return distribution.low <= value <= distribution.high
    return True  # a choice's index is one of them


def _ends(knob: Knob) -> Sequence[Any]:
    return knob.choice or knob.between or knob.log or knob.integer or []


def _value(plain: Any, path: str) -> Any:
    """The value at a dotted path; None where a free dict does not have it."""
    for key in path.split("."):
        plain = plain[int(key)] if isinstance(plain, list) else plain.get(key)
        if plain is None:
            return None
    return plain
