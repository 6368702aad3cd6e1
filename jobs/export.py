"""Turn the trained student into the bundle that is served: float32 graphs checked against torch, then the file of the
engine, chosen and tried on validation rows.

The bundle folder answers by itself (`python predict.py`). Below it lie two more bundles for measuring on the same
machine and threads: `float32/` (the student before INT8) and `teacher/`.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cluster.canonical import file_digest
from cluster.recipe import Recipe
from jobs import distill, fit, quantize, tasks
from jobs.data.items import COLUMNS
from jobs.packing import calibration, fits, graphs, writing
from jobs.packing.checking import check_items, difference
from jobs.quantize import exam, search, sensitivity
from jobs.quantize.invariance import batch_invariant
from jobs.quantize.plan import Plan
from jobs.step import Step, Work, run_name
from serving import engines, teachers
from serving.bundle import files, predict

ROWS = 128  # validation rows that the exported graphs are checked on
TEXT_ROWS = 16  # of a language model: every token of a row is compared, over the whole vocabulary
READ_ONNX = ("onnxruntime", "openvino")  # engines that answer from the float32 file too

check = fits.check


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
    choosing = Choosing(readable, out / "float32", work)
    found, took = choosing.found(), time.perf_counter() - started
    lineage = lineage_of(work)
    spec = choosing.written(found.plan, out)
    if recipe.export.mobile:
        writing.add_mobile(out)
    writing.describe(out, spec, readable, lineage)
    spec["batch_invariant"] = batch_invariant(predict.load(out), items)
    golden = writing.add_golden(out, check_items_of(items, recipe.export.golden))
    writing.describe(out, spec, readable, lineage)
    quantized, before = predict.load(out).predict(items), predict.load(out / "float32").predict(items)
    sizes = {"bytes": engine_bytes(out), "bytes_float32": engine_bytes(out / "float32")}
    if recipe.export.encrypt:
        seal_all(out, recipe)
    work.draft.note(
        scheme=found.plan.scheme, engine=spec["engine"], batch_invariant=spec["batch_invariant"],
        logit_difference=differences, **sizes, golden=golden, signed=recipe.export.sign,
        encrypted=recipe.export.encrypt, quantize_seconds=round(took, 2), quantization=choosing.facts(found),
        same_answers_after_int8=float(np.mean([a.text == b.text for a, b in zip(quantized, before, strict=True)])),
    )  # fmt: skip


class Choosing:
    """Makes and tries a student's plans; `source` is its float32 bundle."""

    def __init__(self, recipe: Recipe, source: Path, work: Work) -> None:
        self.recipe, self.source, self.work = recipe, source, work
        self.spec = predict.verify(source)
        self.exam = exam.of(recipe)
        self.plain = self.exam.take(predict.load(source))
        self.rows: Mapping[str, Sequence[Any]] | None = None

    def found(self) -> search.Found:
        """The plan of the recipe, tried; searched for where the recipe leaves it open."""
        plans = fits.plans(self.recipe)
        if not fits.searches(self.recipe):
            return search.Found(plans[0], [self.tried(plans[0])], {})
        return search.walk(plans, self.tried, self.cost)

    def tried(self, plan: Plan) -> search.Point:
        """Write, open and examine a plan in a folder of its own."""
        with tempfile.TemporaryDirectory() as folder:
            student = self.opened(plan, Path(folder))
            taken = self.exam.take(student)
            return search.judged(plan, engine_bytes(Path(folder)), taken, self.plain, self.recipe.evaluate.gates)

    def cost(self, plan: Plan) -> dict[str, float]:
        """See `search.walk`; nothing where the engine has no layers to leave out."""
        if plan.scheme not in quantize.INT8 or self.recipe.export.engine not in READ_ONNX:
            return {}
        rows = tasks.of(self.recipe).requests("validation").select([*COLUMNS]).to_pylist()
        return sensitivity.measured(self.source, plan, self.opened, check_items(rows, sensitivity.ROWS))

    def opened(self, plan: Plan, folder: Path) -> Any:
        """A plan written into an empty folder, as a student that is not described yet."""
        spec = self.written(plan, folder)
        return predict.of(files.Folder(folder), {**spec, "threads": self.recipe.export.threads})

    def written(self, plan: Plan, folder: Path) -> dict[str, Any]:
        """Write a plan's files; the description so far."""
        if self.recipe.export.engine == "torch":
            fields = writing.scripted(self.work.parents["student"].path() / "hf", folder, plan)
        else:
            fields = writing.student(self.source, folder, self.recipe, self._calibrated(plan))
        return {**self.spec, **fields, "batch_invariant": None}

    def facts(self, found: search.Found) -> dict[str, Any]:
        """See `search.facts`."""
        about = {"engine": self.recipe.export.engine, "metric": self.exam.metric, "metric_float32": self.plain.metric,
                 "rows": len(self.exam), "bytes_float32": engine_bytes(self.source)}  # fmt: skip
        return search.facts(found, self.recipe.export.scheme, self.recipe.evaluate.gates, about)

    def _calibrated(self, plan: Plan) -> Plan:
        if plan.scheme not in quantize.CALIBRATED:
            return plan
        if self.rows is None:
            items = calibration.curated_items(self.work.store, self.work.parents["student"])
            self.rows = calibration.recorded(self.source, items)
        return plan.fed(self.rows)


def plain(model: Path, folder: Path, recipe: Recipe) -> dict[str, Any]:
    """Write a model folder as a described float32 bundle (ONNX) without the code that answers; its description."""
    spec = graphs.export(model, folder, recipe.export.opset)
    engine = recipe.export.engine if recipe.export.engine in READ_ONNX else "onnxruntime"
    spec |= {"scheme": "float32", "batch_invariant": None, "engine": writing.about(engine, "float32")}
    writing.describe(folder, spec, recipe)
    return spec


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


def engine_bytes(folder: Path) -> int:
    """Size of a bundle's graphs (bytes)."""
    endings = {engines.module(name).FILE for name in engines.ENGINES}
    return sum(path.stat().st_size for path in folder.iterdir() if path.suffix in endings)


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
    if fits.searches(recipe):
        gates = recipe.evaluate.gates
        inputs["limits"] = [gates.int8_drop_max, gates.int8_agreement_min, gates.logit_error_max]
    return inputs


STEP = Step("export", "bundle", 2, ("export",), (distill.STEP, fit.STEP), body, _inputs)
