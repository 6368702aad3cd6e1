"""The teacher's own answers to the validation rows, asked once per search: what trials are measured to agree with.

Hands on `answers.parquet`, the rows that were answered, with their soft labels as the teacher gave them.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cluster import schema
from cluster.errors import StepFailed
from cluster.recipe import Recipe
from cluster.store import Artifact
from jobs import fit, tasks
from jobs.data.answers import Answerer, Opening, labels_of
from jobs.step import Step, Work
from jobs.training.table import Columns

ROWS_MAX = 2000  # more validation rows than this say nothing more about which of two trials is better
ANSWERS = "answers.parquet"


def body(work: Work) -> None:
    """Write `answers.parquet`. Raises StepFailed when the teacher answers none of the rows."""
    recipe = work.recipe
    asked = tasks.of(recipe).requests("validation")
    asked = asked.take(_spread(len(asked)))
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


def columns(recipe: Recipe, exam: Artifact, rows: int) -> Columns:
    """At most `rows` packed rows whose targets are the teacher's answers: `Task.evaluate` on them is agreement."""
    answers = pq.read_table(exam.path() / ANSWERS)
    answers = answers.take(_spread(len(answers), rows))
    named = answers.append_column("teacher", pa.array([exam.id] * len(answers), pa.string()))
    return tasks.of(recipe).pack(schema.conform(named, "samples"), labels_of(answers), true_labels=False)


def _spread(count: int, most: int = ROWS_MAX) -> pa.Array:
    """Row numbers, evenly over all rows."""
    chosen = min(count, most)
    return pa.array([index * count // chosen for index in range(chosen)], pa.int64())


STEP = Step("search", "exam", 1, ("generate",), (fit.STEP,), body)
