"""From packed columns and fresh weights to a trained Hugging Face folder: fit, distill and the control arm share it."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from cluster.recipe.training import Stage, TrainingSection
from jobs import tasks
from jobs.step import Work, run_name
from jobs.training import streamed, table
from jobs.training.curves import Target
from jobs.training.loop import Job
from jobs.training.runner import Trained, run_ray
from jobs.training.table import Columns

FIT = "fit"  # the teacher is nobody's served model


@dataclass(frozen=True)
class Arm:
    """One network to train: its name, initial weights (HF folder), packed rows, stages, and the teacher's width."""

    name: str
    initial: Path
    columns: Columns
    section: TrainingSection
    stages: tuple[Stage, ...]
    teacher_hidden: int = 0
    teacher: Path | None = None
    seed: int | None = None


def train_arm(work: Work, arm: Arm) -> Trained:
    """Train an arm under Ray Train and leave `hf/` and `history.json` in the artifact that is being made.

    The draft's scratch survives a crash: tables are written once, and a second call resumes from the newest checkpoint.
    """
    target = work.draft.path
    job = job_of(work, arm)
    trained = run_ray(job, arm.name, str(work.draft.scratch))
    shutil.copytree(trained.weights, target / "hf")
    (target / "history.json").write_text(json.dumps(dict(trained.progress)))
    forget(job)
    return trained


def forget(job: Job) -> None:
    """Remove what a finished job has left outside its draft: the rows that were streamed."""
    if job.rows_at is not None:
        streamed.remove(job.rows_at)


def job_of(work: Work, arm: Arm) -> Job:
    """The arm as a job for either runner; its tables are written into the draft's scratch, once."""
    recipe, scratch = work.recipe, work.draft.scratch
    task = tasks.of(recipe)
    far = arm.section.engine.stream_from
    rows_at = far and streamed.place(far, work.draft.kind, work.draft.id, f"{arm.name}.arrow")
    rows = scratch / (f"{arm.name}.arrow" if rows_at is None else f"{arm.name}.index")
    validation = scratch / f"{arm.name}-validation.arrow"
    _write_once(rows, arm.columns, rows_at)
    _write_once(validation, task.validation_columns())
    return Job(
        recipe=recipe,
        arm=arm.name,
        initial=str(arm.initial),
        table=str(rows),
        validation=str(validation),
        stages=arm.stages,
        batch_size=arm.section.batch_size,
        engine=arm.section.engine,
        teacher_hidden=arm.teacher_hidden,
        teacher=None if arm.teacher is None else str(arm.teacher),
        curve_to=curve_to(work, arm),
        own_seed=arm.seed,
        rows_at=rows_at,
        store=None if arm.name == FIT else work.store,
    )


def curve_to(work: Work, arm: Arm) -> Target | None:
    """Where the recipe wants the training curve to go, None for nowhere else than `history.json`."""
    tools, recipe = tuple(arm.section.engine.log_to), work.recipe
    place = (str(work.store.workspace), recipe.promote.tracking_uri)
    return Target(tools, *place, recipe.name, run_name(recipe), arm.name) if tools else None


def _write_once(path: Path, columns: Columns, rows_at: str | None = None) -> None:
    """Write a table, or with `rows_at` its rows there and then its index: where both are, all of them are."""
    if not path.is_file() or (rows_at is not None and not streamed.there(rows_at)):
        path.unlink(missing_ok=True)
        aside = path.with_suffix(".new")
        table.write(aside, columns if rows_at is None else streamed.write(rows_at, columns))
        aside.replace(path)
