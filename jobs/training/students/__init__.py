"""Where a student's first weights come from when they are the fitted teacher's: some of its layers, its parts that
matter most, or its feed-forward blocks as experts. A new start is one file and one line in `STARTS`.

Weights of the user's own are `student.weights`, a fresh network is `student.params`: neither comes through here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from cluster.errors import RecipeError
from cluster.recipe import Recipe
from cluster.recipe.base import Section
from jobs import tasks
from jobs.training.students import pruned, teacher_layers, upcycled
from jobs.training.students.shape import ARCHITECTURES, Shape, of_section
from jobs.training.students.source import Source


@dataclass(frozen=True)
class Start:
    """A start: `make(source, params)` gives the student, `check(teacher, params, at)` raises MismatchError or
    RecipeError where the teacher has not what is asked of it; `params` is the start's own section."""

    make: Callable[[Source, Any], nn.Module]
    check: Callable[[Shape, Any, str], None]
    params: type[Section]


STARTS: Mapping[str, Start] = {
    "pruned": Start(pruned.make, pruned.check, pruned.Params),
    "teacher_layers": Start(teacher_layers.make, teacher_layers.check, teacher_layers.Params),
    "upcycled": Start(upcycled.make, upcycled.check, upcycled.Params),
}


def check(recipe: Recipe) -> None:
    """Refuse a start that the recipe's teacher cannot give, before anything is fitted.

    Raises RecipeError or MismatchError with what was asked and what the teacher has.
    """
    init = recipe.student.init
    if init is None:
        return
    at = "student.init"
    if init.start not in STARTS:
        raise RecipeError(f"{at}.from: unknown start", got=init.start, expected=", ".join(STARTS))
    teacher, student = recipe.teacher.architecture, recipe.student.architecture
    hint = "student.params makes a fresh student of any architecture, which learns from the answers alone"
    if teacher not in ARCHITECTURES:
        expected = ", ".join(ARCHITECTURES)
        raise RecipeError(f"{at}: this teacher's weights cannot be taken", got=teacher, expected=expected, hint=hint)
    if student != teacher:
        raise RecipeError(f"{at}: another architecture has no place for the teacher's weights", got=student,
                          expected=teacher, hint=hint)  # fmt: skip
    start = STARTS[init.start]
    params = start.params.parse(init.params, at=f"{at}.params")
    start.check(of_section(recipe.teacher), params, f"{at}.params")


def begin(recipe: Recipe, task: tasks.Task, teacher: Path) -> nn.Module:
    """The student before its first step: fresh, from its own weights, or what `student.init` takes of `teacher`."""
    init, own = recipe.student.init, recipe.distill.seed
    seed = recipe.seed if own is None else own
    if init is None:
        return task.build(recipe.student, seed, teacher)
    start = STARTS[init.start]
    return start.make(Source(task, task.load(str(teacher)), seed), start.params.parse(init.params))
