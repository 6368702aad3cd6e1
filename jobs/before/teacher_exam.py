"""The teacher's own answers to the validation rows, asked once: what trials and pilots are measured against.

Hands on `answers.parquet`, the rows that were answered, with their soft labels as the teacher gave them.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cluster import schema
from cluster.errors import StepFailed
from cluster.recipe import Recipe
from cluster.store import Artifact
from jobs import fit, tasks
from jobs.data.answers import Answerer, Opening, labels_of
from jobs.measure import exam
from jobs.step import Step, Work
from jobs.training.table import Columns

ANSWERS = "answers.parquet"


def body(work: Work) -> None:
    """Write `answers.parquet`. Raises StepFailed when the teacher answers none of the rows."""
    recipe = work.recipe
    asked = rows_of(recipe)
    opening = Opening(recipe.teacher, work.draft.scratch / "spent.json")
    model = str(work.parents["teacher"].path() / "hf")
    answerer = Answerer(model, recipe.generate, str(work.draft.scratch / "tally"), opening)
    size = recipe.generate.batch_size
    answers = pa.concat_tables([answerer(asked.slice(at, size)) for at in range(0, len(asked), size)])
    answered = answers.filter(pc.equal(answers["status"], "ok"))
    if not len(answered):
        raise StepFailed("search", "the teacher answers no validation row", "see what it says of itself")
    pq.write_table(answered, work.draft.path / ANSWERS)
    work.draft.note(asked=len(asked), answered=len(answered))


def columns(recipe: Recipe, made: Artifact, rows: int) -> Columns:
    """At most `rows` packed rows whose targets are the teacher's answers: `Task.evaluate` on them is agreement."""
    answers = pq.read_table(made.path() / ANSWERS)
    answers = answers.take(_spread(len(answers), rows))
    named = answers.append_column("teacher", pa.array([made.id] * len(answers), pa.string()))
    return tasks.of(recipe).pack(schema.conform(named, "samples"), labels_of(answers), true_labels=False)


def rows_of(recipe: Recipe) -> pa.Table:
    """The validation requests that everything before the decision is measured on: `search.rows` labelled ones."""
    asked = tasks.of(recipe).requests("validation")
    chosen = exam.of(asked, recipe.search.rows, recipe.seed).ids
    return asked.filter(pc.is_in(asked["sample_id"], pa.array(chosen)))


def right(recipe: Recipe, made: Artifact) -> np.ndarray:
    """Per row of `rows_of` whether the teacher is right, bool [R]; a row without an answer is wrong."""
    answers = pq.read_table(made.path() / ANSWERS, columns=["sample_id", "response"])
    said = dict(zip(answers["sample_id"].to_pylist(), answers["response"].to_pylist(), strict=True))
    asked = rows_of(recipe).select(["sample_id", "label_name"]).to_pylist()
    return np.array([said.get(row["sample_id"]) == row["label_name"] for row in asked])


def _inputs(recipe: Recipe) -> dict[str, int]:
    return {"rows": recipe.search.rows, "seed": recipe.seed}


def _spread(count: int, most: int) -> pa.Array:
    """Row numbers, evenly over all rows."""
    chosen = min(count, most)
    return pa.array([index * count // chosen for index in range(chosen)], pa.int64())


STEP = Step("search", "exam", 1, ("generate",), (fit.STEP,), body, _inputs)
