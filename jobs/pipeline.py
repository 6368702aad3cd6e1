"""The steps in order, run until done: what is finished is reused, what was killed is resumed, and a run is recorded."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from cluster import session
from cluster.canonical import digest
from cluster.errors import RecipeError, ResourceError
from cluster.recipe import Recipe
from cluster.store import Artifact, Store
from jobs import curate, distill, evaluate, export, fit, generate, promote, tasks
from jobs.before import continued, licences, sheets
from jobs.step import Step, run_name
from jobs.training import checks as training_checks
from jobs.training import students, words
from jobs.training.stages import check as stage_check
from serving import teachers

# One verb, one file, one command; the steps of a verb do not read each other and run at the same time.
VERBS: Mapping[str, tuple[Step, ...]] = {
    "fit": (fit.STEP,),
    "generate": (generate.STEP,),
    "curate": (curate.STEP,),
    "distill": (distill.STEP, distill.CONTROL),
    "export": (export.STEP,),
    "evaluate": (evaluate.STEP,),
    "promote": (promote.STEP,),
}
DISK_BYTES = 2 << 30  # tables, checkpoints and bundles of a default run, with room


class Watcher(Protocol):
    """What shows progress: told when a verb starts and ends, and asked to show what happens in between."""

    def started(self, verb: str, scratch: list[str]) -> None:
        """A verb begins; its steps leave what they are at in these folders."""

    def finished(self, verb: str, artifacts: list[Artifact], seconds: float, reused: bool) -> None:
        """A verb has its artifacts, after this long (s), or had them before."""


def check(recipe: Recipe, store: Store) -> None:
    """Refuse what cannot work before Ray starts and the first minute is spent (DESIGN, decision 9).

    Raises InputError: unknown losses or filters, data that is missing or does not fit, too little disk.
    """
    for where, section in (("fit", recipe.fit), ("distill", recipe.distill)):
        stage_check.check(recipe, where, section)
    curate.check(recipe)
    generate.check(recipe)
    export.check(recipe)
    evaluate.check(recipe)
    if recipe.fit.enabled and recipe.teacher.architecture in teachers.KINDS:
        got = recipe.teacher.architecture
        raise RecipeError("fit.enabled: this teacher cannot be fitted", got=got, expected="fit.enabled=false")
    teachers.check(recipe.teacher)
    students.check(recipe)
    task = tasks.of(recipe)
    task.check()
    words.check(recipe, task)
    training_checks.check(recipe)
    continued.check(recipe, store)
    sheets.check(recipe)
    for warning in licences.warnings(recipe):
        logging.getLogger(__name__).warning(warning)
    place = next(folder for folder in (store.workspace, *store.workspace.parents) if folder.exists())
    free = shutil.disk_usage(place).free
    if free < DISK_BYTES:
        got, expected = f"{free >> 20} MiB free at {place}", f"{DISK_BYTES >> 20} MiB"
        raise ResourceError(
            "not enough disk for the store", got=got, expected=expected, hint="free some or use --store"
        )


def plan(recipe: Recipe, store: Store) -> list[dict[str, Any]]:
    """Per step: verb, kind, id, and whether it is done; changes nothing."""
    rows = []
    for verb, steps in VERBS.items():
        for step in chosen(recipe, steps):
            rows.append(
                {"verb": verb, "kind": step.kind, "id": step.id(recipe), "done": step.find(recipe, store) is not None}
            )
    return rows


def chosen(recipe: Recipe, steps: tuple[Step, ...]) -> list[Step]:
    """The steps of a verb that this recipe asks for: the control arm can be switched off."""
    return [step for step in steps if step is not distill.CONTROL or recipe.distill.control]


def run(recipe: Recipe, store: Store, watcher: Watcher, verbs: list[str]) -> dict[str, Any]:
    """Run `verbs` in order and return the run's record (name, recipe, commit, artifact ids, seconds per verb).

    Raises what a step raises; everything finished before stays, and the same call goes on from there.
    """
    name = run_name(recipe)
    before = _before(recipe, store, name)
    record: dict[str, Any] = {"run": name, "recipe": recipe.model_dump(mode="json"), "commit": session.commit()}
    record |= {key: dict(before[key]) for key in ("artifacts", "seconds")}
    for verb in verbs:
        steps = chosen(recipe, VERBS[verb])
        done = [step.find(recipe, store) for step in steps]
        started = time.perf_counter()
        reused = all(done)
        if not reused:
            session.connect(recipe.resources)
            watcher.started(verb, [str(store.workspace / step.kind / step.id(recipe) / "scratch") for step in steps])
        artifacts = [a for a in done if a is not None] if reused else _together(steps, recipe, store)
        record["artifacts"] |= {artifact.kind: artifact.id for artifact in artifacts}
        record["seconds"][verb] = max(artifact.manifest.seconds for artifact in artifacts)
        store.write_record(f"runs/{record['run']}", record)
        watcher.finished(verb, artifacts, time.perf_counter() - started, reused)
    return record


def _before(recipe: Recipe, store: Store, name: str) -> Mapping[str, Any]:
    """The record that a run of this name left, emptied where an artifact of it is of other rows (a file or a labelling
    sheet whose content changed) or of other code: a record is of one run. The other one is kept under a longer name.
    """
    record = store.read_record(f"runs/{name}") or {"artifacts": {}, "seconds": {}}
    steps = [step for own in VERBS.values() for step in chosen(recipe, own) if step.kind in record["artifacts"]]
    if all(step.id(recipe) == record["artifacts"][step.kind] for step in steps):
        return record
    aside = f"{name}-{digest(record['artifacts'])[:8]}"
    store.write_record(f"runs/{aside}", {**record, "run": aside})
    logging.getLogger(__name__).info("%s was a run of other rows or code: its record is now %s", name, aside)
    return {"artifacts": {}, "seconds": {}}


def _together(steps: list[Step], recipe: Recipe, store: Store) -> list[Artifact]:
    """Run steps that do not read each other at the same time. Raises what the first of them raised."""
    if len(steps) == 1:
        return [steps[0].run(recipe, store)]
    with ThreadPoolExecutor(len(steps)) as pool:
        return [future.result() for future in [pool.submit(step.run, recipe, store) for step in steps]]
