"""Fit the teacher on the recipe's own labelled training rows, as users do; hands on a Hugging Face folder."""

from __future__ import annotations

import shutil
from typing import Any

from cluster.recipe import Recipe
from jobs import tasks
from jobs.before import continued
from jobs.step import Step, Work
from jobs.training.run import Arm, train_arm
from serving import teachers


def body(work: Work) -> None:
    """Train the teacher from its recipe's weights (or a seeded start) and write `hf/` and `history.json`.

    A run that continues another one takes its teacher as it is.
    """
    recipe, section = work.recipe, work.recipe.fit
    earlier = continued.find(recipe, work.store)
    if earlier is not None:
        shutil.copytree(earlier.folder("teacher"), work.draft.path / "hf")
        work.draft.note(fitted=False, teacher_of=earlier.run)
        return
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
    arm = Arm("fit", initial, task.fit_columns(), section, section.active)
    trained = train_arm(work, arm)
    work.draft.note(fitted=True, validation=trained.progress["stages"][-1]["after"])


def _data(recipe: Recipe) -> dict[str, Any]:
    rows = {"rows": tasks.of(recipe).data_identity()}
    wanted = recipe.distill.continue_from
    return rows if wanted is None else rows | {"continue_from": wanted}


STEP = Step("fit", "teacher", 1, ("task", "seed", "data", "teacher", "fit"), (), body, _data)
