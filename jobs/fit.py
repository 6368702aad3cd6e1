"""Fit the teacher on the recipe's own labelled training rows, as users do; hands on a Hugging Face folder."""

from __future__ import annotations

from typing import Any

from cluster.recipe import Recipe
from jobs import tasks
from jobs.step import Step, Work
from jobs.training.run import Arm, train_arm
from serving import teachers


def body(work: Work) -> None:
    """Train the teacher from its recipe's weights (or a seeded start) and write `hf/` and `history.json`."""
    recipe, section = work.recipe, work.recipe.fit
    task = tasks.of(recipe)
    if recipe.teacher.architecture in teachers.KINDS:
        teachers.write_folder(recipe.teacher, work.draft.path / "hf", **task.framing())
        work.draft.note(fitted=False)
        return
    initial = work.draft.scratch / "initial"
    if not (initial / "task.json").is_file():
        network = task.build(recipe.teacher, recipe.seed)
        initial.mkdir(exist_ok=True)
        task.save(network, initial)
    if not section.enabled:
        initial.rename(work.draft.path / "hf")
        work.draft.note(fitted=False)
        return
    arm = Arm("fit", initial, task.fit_columns(), section, tuple(section.stages))
    trained = train_arm(recipe, arm, work.draft.scratch, work.draft.path)
    work.draft.note(fitted=True, validation=trained.progress["stages"][-1]["after"])


def _data(recipe: Recipe) -> dict[str, Any]:
    return {"rows": tasks.of(recipe).data_identity()}


STEP = Step("fit", "teacher", 1, ("task", "seed", "data", "teacher", "fit"), (), body, _data)
