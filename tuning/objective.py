"""One trial: a point's recipe trained in this process on what the teacher said once for all of them, and measured.

A finished trial is an artifact of the store (`trial`), named by what it trained and how it was measured: no search in
this store ever trains it again. A trial that is stopped early leaves nothing but what the search notes of it.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from cluster.errors import RaydistillError, StepFailed
from cluster.recipe import Recipe, changed
from cluster.store import Artifact, Store
from jobs import curate, distill
from jobs.before import teacher_exam, worth
from jobs.step import Step, Work
from jobs.training import health
from jobs.training.loop import Job, train
from jobs.training.run import forget, job_of
from tuning.reporting import Tell, TrialIo, steps_of
from tuning.space import Point, Space

TRIAL = "trial.json"
FULL = 100  # progress of a trial that is done (percent of its steps)
Report = Callable[[Mapping[str, Any]], None]


def body(work: Work, tell: Tell) -> None:
    """Write `trial.json`: the objectives, agreement at every report, and what it took (s)."""
    started, recipe = time.perf_counter(), work.recipe
    seen: list[tuple[float, float]] = []

    def heard(share: float, agreement: float) -> None:
        seen.append((share, agreement))
        tell(share, agreement)

    job = trial_job(work)
    answers = teacher_exam.columns(recipe, work.parents["exam"], recipe.search.agreement_rows)
    io = TrialIo(work.draft.scratch / "training", job, answers, heard)
    try:
        progress = train(io, job)
        if progress["status"] != "done":
            raise StepFailed("trial", progress["reason"], health.ADVICE[progress["status"]])
    except (SystemExit, StepFailed):  # the search stops this trial, or it cannot be trained: nothing goes on from here
        shutil.rmtree(work.draft.scratch)
        raise
    finally:
        forget(job)
    trained = time.perf_counter() - started
    newest = io.last_checkpoint()
    assert newest is not None
    with tempfile.TemporaryDirectory() as folder:
        measured = worth.measure(work, newest / "hf", Path(folder) / "bundle")
    seconds = {"training": round(trained, 3), "all": round(time.perf_counter() - started, 3)}
    found = {**worth.facts(measured), "curve": seen, "seconds": seconds, "steps": sum(steps_of(job))}
    (work.draft.path / TRIAL).write_text(json.dumps(found))
    work.draft.note(recipe=recipe.model_dump(mode="json"), **measured.objectives(), seconds=seconds["all"])


def trial_job(work: Work) -> Job:
    """The student's training as the step `distill` does it, by one worker and with a checkpoint at every report."""
    job = job_of(work, distill.student_arm(work))
    every = max(1, -(-sum(steps_of(job)) // work.recipe.search.reports))
    alone: dict[str, Any] = {"workers": 1, "min_workers": None, "checkpoint_every": every, "log_to": []}
    return replace(job, engine=job.engine.model_copy(update=alone), curve_to=None, store=None)


def _inputs(recipe: Recipe) -> Mapping[str, Any]:
    section = recipe.search
    # Language models were once scored by their float weights; what is served is what counts.
    scored = {"scored": "bundle"} if recipe.task == "text_generation" else {}
    return {"seed": recipe.seed, "rows": section.rows, "latency_requests": section.latency_requests, **scored}


STEP = Step(
    "trial", "trial", 1, ("student", "distill", "export"), (*distill.PARENTS, teacher_exam.STEP),
    partial(body, tell=lambda share, agreement: None), _inputs,
)  # fmt: skip


def recipe_of(space: Space, point: Point, seed: int | None = None) -> Recipe:
    """The recipe of a point, with another seed of the student where one is given."""
    recipe = space.build(point)
    return recipe if seed is None else changed(recipe, {"distill.seed": seed})


def find(space: Space, store: Store, point: Point, seed: int | None = None) -> Artifact | None:
    """The finished trial of a point."""
    return STEP.find(recipe_of(space, point, seed), store)


def run(space: Space, store: Store, point: Point, report: Report, seed: int | None = None) -> Artifact:
    """The trial of a point, found or made; `report` hears progress, agreement, and at the end the objectives.

    seed: another one of the student. Raises RaydistillError with the reason where the recipe cannot be trained.
    """
    recipe = recipe_of(space, point, seed)

    def tell(share: float, agreement: float) -> None:
        if share < 1:
            report({"progress": int(share * FULL), "agreement": agreement})

    curate.STEP.run(recipe, store)
    trial = replace(STEP, body=partial(body, tell=tell)).run(recipe, store)
    report(outcome(trial))
    return trial


def students(recipe: Recipe) -> str:
    """What the students of a search share: the id of the recipe's own trial, which the content of its data is part of.

    Searches of one recipe on other rows differ in it.
    """
    return STEP.id(recipe)


def outcome(trial: Artifact) -> dict[str, Any]:
    """The last report of a finished trial."""
    found = content(trial)
    objectives = {name: found[name] for name in ("quality", "latency_ms", "bytes")}
    return {"progress": FULL, "agreement": found["curve"][-1][1], "trial": trial.id, **objectives}


def content(trial: Artifact) -> dict[str, Any]:
    """What `trial.json` of a finished trial holds."""
    found: dict[str, Any] = json.loads((trial.path() / TRIAL).read_text())
    return found


def reason(error: BaseException) -> str:
    """One line of why a trial failed."""
    text = str(error) if isinstance(error, RaydistillError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())[:500]
