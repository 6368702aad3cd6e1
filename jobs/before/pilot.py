"""A pilot: the steps of a run on a few rows, with their real bodies, and the student that comes of it measured.

The teacher is the run's own, so the run finds it there; its answers to a pilot's rows are taken over as well.
"""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.recipe import Recipe
from cluster.store import Artifact, Store
from jobs import curate, distill, fit, generate
from jobs.before import worth
from jobs.step import Step, Work
from jobs.training.run import forget, job_of
from jobs.training.runner import run_local
from jobs.training.sampler import steps_of
from jobs.training.table import read
from jobs.training.table import rows as rows_of

PILOT = "pilot.json"


def chosen(pool: pa.Table, rows: int, seed: int) -> pa.Table:
    """The requests of `rows` training rows and of all their variants; those of a smaller number are among them."""
    parents = pc.coalesce(pool["parent"], pool["sample_id"]).combine_chunks()
    origins = parents.unique().sort()
    order = np.random.default_rng(seed).permutation(len(origins))[:rows]
    return pool.filter(pc.is_in(parents, origins.take(pa.array(order))))


def origins(pool: pa.Table) -> int:
    """Training rows behind a table of requests (count)."""
    return int(pc.count_distinct(pc.coalesce(pool["parent"], pool["sample_id"])).as_py())


def lengthened(recipe: Recipe, requests: int, least: int) -> Recipe:
    """The recipe whose stages take at least the steps that they would take in the whole run of so many `requests`, in
    all at most `least`: a student that starts from nothing learns by steps, and rows are what a pilot is short of."""
    section = recipe.distill
    whole = [steps_of(stage, requests, section.batch_size) for stage in section.active]
    share = min(1.0, least / sum(whole))
    floors = dict(zip([stage.name for stage in section.active], whole, strict=True))
    stages = [
        stage.model_copy(update={"min_steps": max(stage.min_steps, round(share * floors.get(stage.name, 0)))})
        for stage in section.stages
    ]
    return recipe.model_copy(update={"distill": section.model_copy(update={"stages": stages})})


def steps(rows: int) -> tuple[Step, Step, Step]:
    """Samples, curated set and student of a pilot of `rows` training rows, as steps of their own ids."""

    def extra(recipe: Recipe) -> dict[str, Any]:
        return {"pilot_rows": rows, "seed": recipe.seed, "exam": recipe.search.rows}

    samples = replace(generate.STEP, name="probe", body=partial(_samples, rows=rows), extra=extra)
    curated = replace(curate.STEP, name="probe", parents=(samples,))
    parents = (fit.STEP, samples, curated)
    student = Step("probe", "pilot", 1, ("student", "distill", "export"), parents, _student, extra)
    return samples, curated, student


def run(recipe: Recipe, store: Store, rows: int) -> Artifact:
    """The pilot's student and what it measured (`pilot.json`); what is there is not made again."""
    return [step.run(recipe, store) for step in steps(rows)][-1]


def content(made: Artifact) -> dict[str, Any]:
    """What `pilot.json` holds."""
    found: dict[str, Any] = json.loads((made.path() / PILOT).read_text())
    return found


def _samples(work: Work, rows: int) -> None:
    generate.answer(work, lambda pool: chosen(pool, rows, work.recipe.seed))


def _student(work: Work) -> None:
    """Train in this process and write `pilot.json`: rows right, bytes, steps, and seconds of each part."""
    job = job_of(work, distill.student_arm(work))
    alone: dict[str, Any] = {"workers": 1, "min_workers": None, "log_to": []}
    job = replace(job, engine=job.engine.model_copy(update=alone), curve_to=None, store=None)
    started = time.perf_counter()
    trained = run_local(job, work.draft.scratch / "training")
    forget(job)
    training_s = time.perf_counter() - started
    with tempfile.TemporaryDirectory() as folder:
        measured = worth.measure(work, trained.weights, Path(folder) / "bundle")
    taught = sum(stage["steps"] for stage in trained.progress["stages"])
    found = {
        **worth.facts(measured), "steps": taught, "packed": rows_of(read(Path(job.table))),
        "training_s": training_s, "measuring_s": time.perf_counter() - started - training_s,
    }  # fmt: skip
    (work.draft.path / PILOT).write_text(json.dumps(found))
    work.draft.note(**measured.objectives(), steps=taught)
