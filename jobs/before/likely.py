"""How likely a language model finds the true texts of the validation rows: what stands for right or wrong there.

Shape legend: R rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from cluster.recipe import Recipe
from cluster.store import Artifact
from jobs.before import teacher_exam
from jobs.measure import exam, next_tokens
from jobs.measure.next_tokens import Likely
from jobs.tasks.text_generation.task import TextGeneration
from serving import teachers

ROUNDED = 4  # digits of a row's nats that are kept: 1e-4 of hundreds


def facts(own: Likely) -> dict[str, Any]:
    """JSON-ready."""
    return {"nll": own.nll_R.round(ROUNDED).tolist(), "tokens": own.tokens_R.tolist()}


def read(found: Mapping[str, Any]) -> Likely:
    """From `facts` among other things."""
    return Likely(np.array(found["nll"], float), np.array(found["tokens"], np.int64))


def of(recipe: Recipe, scorer: next_tokens.Scorer) -> Likely:
    """Ask a model (a bundle's engine, a teacher) for the validation rows of `teacher_exam.rows_of`."""
    task, rows = TextGeneration(recipe), exam.of(teacher_exam.rows_of(recipe), None, recipe.seed)
    contexts = task.contexts([item["text"] for item in rows.items])
    told = next_tokens.told(scorer, list(zip(contexts, task.answers(rows.truth), strict=True)))
    return Likely(told.nll_R, told.tokens_R)


def of_teacher(recipe: Recipe, teacher: Artifact) -> Likely:
    """The same of the run's teacher (artifact of `fit`)."""
    scorer: Any = teachers.open_folder(teacher.path() / "hf")
    return of(recipe, scorer)
