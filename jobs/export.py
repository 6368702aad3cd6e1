"""Turn the trained student into the bundle that is served: float32 graphs checked against torch, then the file of the
engine, chosen and tried on validation rows.

The bundle folder answers by itself (`python predict.py`). Below it lie two more bundles for measuring on the same
machine and threads: `float32/` (the student before INT8) and `teacher/`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cluster.canonical import file_digest
from cluster.errors import ArtifactMissing
from cluster.recipe import Recipe
from jobs import distill, fit, tasks
from jobs.data.items import COLUMNS
from jobs.measure import deferral
from jobs.packing import calibration, choosing, fits, writing
from jobs.packing.checking import check_items, difference
from jobs.quantize import search
from jobs.quantize.invariance import batch_invariant
from jobs.step import Step, Work, run_name
from serving import teachers
from serving.bundle import files, predict

ROWS = 128  # validation rows that the exported graphs are checked on
TEXT_ROWS = 16  # of a language model: every token of a row is compared, over the whole vocabulary

plain, engine_bytes = choosing.plain, writing.engine_bytes


def check(recipe: Recipe) -> None:
    """Refuse an engine, schemes, keys and a target of agreement that cannot work here. Raises RecipeError."""
    fits.check(recipe)
    deferral.check(recipe)


def body(work: Work) -> None:
    """Write the bundle, `float32/` and (of a teacher whose network is here) `teacher/`.

    Raises StepFailed when a graph does not do what torch does.
    """
    recipe, out, started = fits.resolved(work.recipe), work.draft.path, time.perf_counter()
    readable = recipe.model_copy(update={"export": recipe.export.model_copy(update={"encrypt": False})})
    count = TEXT_ROWS if recipe.task == "text_generation" else ROWS
    items = check_items(tasks.of(recipe).requests("validation").select([*COLUMNS]).to_pylist(), count)
    differences = {}
    for name, kind in (("float32", "student"), ("teacher", "teacher")):
        model = work.parents[kind].path() / "hf"
        if teachers.elsewhere(model):
            continue
        plain(model, out / name, readable)
        differences[kind] = difference(model, out / name, items)
    choice = choosing.Choosing(readable, out / "float32", work.parents["student"].path() / "hf", _curated(work))
    found, took = choice.found(), time.perf_counter() - started
    lineage = lineage_of(work)
    spec = choice.written(found.plan, out)
    if recipe.export.mobile:
        writing.add_mobile(out)
    writing.describe(out, spec, readable, lineage)
    spec["batch_invariant"] = batch_invariant(predict.load(out), items)
    spec |= deferral.thresholds(recipe, predict.load(out), work.parents["teacher"].path() / "hf")
    golden = writing.add_golden(out, check_items_of(items, recipe.export.golden))
    writing.describe(out, spec, readable, lineage)
    quantized, before = predict.load(out).predict(items), predict.load(out / "float32").predict(items)
    sizes = {"bytes": engine_bytes(out), "bytes_float32": engine_bytes(out / "float32")}
    if recipe.export.encrypt:
        seal_all(out, recipe)
    work.draft.note(
        scheme=found.plan.scheme, engine=spec["engine"], batch_invariant=spec["batch_invariant"],
        logit_difference=differences, **sizes, golden=golden, signed=recipe.export.sign,
        encrypted=recipe.export.encrypt, quantize_seconds=round(took, 2), quantization=choice.facts(found),
        same_answers_after_int8=float(np.mean([a.text == b.text for a, b in zip(quantized, before, strict=True)])),
    )  # fmt: skip


def tried_bundle(recipe: Recipe, model: Path, out: Path, curated: choosing.Requests) -> search.Found:
    """Write a student that is no artifact (an HF folder `model`) as a bundle into the new folder `out`, with `float32/`
    below it: what a search or a pilot measures. Not sealed, without golden samples and without a teacher.

    `curated` gives the requests that set ranges, and is asked by static schemes alone. Returns what was tried.
    """
    sealed_off = {"encrypt": False, "sign": False}
    recipe = fits.resolved(recipe)
    recipe = recipe.model_copy(update={"export": recipe.export.model_copy(update=sealed_off)})
    plain(model, out / "float32", recipe)
    choice = choosing.Choosing(recipe, out / "float32", model, curated)
    found = choice.found()
    writing.describe(out, choice.written(found.plan, out), recipe)
    return found


def _curated(work: Work) -> choosing.Requests:
    """The curated set that the student was distilled from. Raises ArtifactMissing, once asked, when it is not there."""
    student = work.parents["student"]

    def read() -> list[dict[str, Any]]:
        parents = student.manifest.parents
        if "curated" not in parents:
            raise ArtifactMissing("curated", f"of student {student.id}", hint="distil the student again")
        samples, curated = (work.store.get(kind, parents[kind]) for kind in ("samples", "curated"))
        return calibration.curated_items(samples.path(), curated.path())

    return read


def lineage_of(work: Work) -> dict[str, Any]:
    """From what a bundle was made: the run that made it, the code's commit, and every artifact on the way."""
    from cluster.session import commit

    recipe, parents = work.recipe, {kind: artifact.id for kind, artifact in work.parents.items()}
    return {
        "run": run_name(recipe), "recipe": recipe.name, "fingerprint": recipe.fingerprint(), "commit": commit(),
        "artifacts": {**work.parents["student"].manifest.parents, **parents, "bundle": work.draft.id},
        "teacher": {"architecture": recipe.teacher.architecture, "weights": recipe.teacher.weights},
    }  # fmt: skip


def seal_all(out: Path, recipe: Recipe) -> None:
    """Encrypt the bundle and the two below it, and describe them as such."""
    for folder in (out, *(out / name for name in files.NESTED if (out / name).is_dir())):
        writing.describe(folder, predict.verify(folder), recipe)


def check_items_of(items: Sequence[Mapping[str, Any]], count: int) -> list[Mapping[str, Any]]:
    """`count` of the items, spread evenly."""
    return [items[row] for row in np.unique(np.linspace(0, len(items) - 1, min(count, len(items))).astype(int))]


def _inputs(recipe: Recipe) -> dict[str, Any]:
    # The code is part of the bundle: when it changes, a bundle with the old one is no longer what is served.
    inputs: dict[str, Any] = {
        "confidence_min": recipe.serving.confidence_min,
        "code": {name: file_digest(file) for name, file in writing.code().items()},
        "engine": fits.engine(recipe),
    }
    if recipe.serving.agreement_min is not None:
        inputs["agreement_min"] = recipe.serving.agreement_min
    if fits.searches(recipe):
        gates = recipe.evaluate.gates
        inputs["limits"] = [gates.int8_drop_max, gates.int8_agreement_min, gates.logit_error_max]
    return inputs


STEP = Step("export", "bundle", 4, ("export",), (distill.STEP, fit.STEP), body, _inputs)
