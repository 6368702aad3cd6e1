"""A student's float32 bundle, and the file that is chosen for its engine: made, opened and examined plan by plan."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.recipe import Recipe
from jobs import quantize, tasks
from jobs.data.items import COLUMNS
from jobs.packing import calibration, fits, graphs, writing
from jobs.packing.checking import check_items
from jobs.quantize import exam, search, sensitivity
from jobs.quantize.exam import Exam, Taken
from jobs.quantize.plan import Plan
from serving.bundle import files, predict

Requests = Callable[[], Sequence[Mapping[str, Any]]]
READ_ONNX = ("onnxruntime", "openvino")  # engines that answer from the float32 file too


def plain(model: Path, folder: Path, recipe: Recipe) -> dict[str, Any]:
    """Write a model folder as a described float32 bundle (ONNX) without the code that answers; its description."""
    spec = graphs.export(model, folder, recipe.export.opset)
    engine = recipe.export.engine if recipe.export.engine in READ_ONNX else "onnxruntime"
    spec |= {"scheme": "float32", "batch_invariant": None, "engine": writing.about(engine, "float32")}
    writing.describe(folder, spec, recipe)
    return spec


class Choosing:
    """Makes and tries a student's plans; `source` is its float32 bundle, `model` its HF folder, and `curated` gives the
    requests that set ranges."""

    def __init__(self, recipe: Recipe, source: Path, model: Path, curated: Requests) -> None:
        self.recipe, self.source, self.model, self.curated = recipe, source, model, curated
        self.spec = predict.verify(source)
        self.rows: Mapping[str, Sequence[Any]] | None = None

    @functools.cached_property
    def exam(self) -> Exam:
        """The rows that a plan is tried on."""
        return exam.of(self.recipe)

    @functools.cached_property
    def plain(self) -> Taken:
        """What the float32 student makes of them."""
        return self.exam.take(predict.load(self.source))

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
            return search.judged(
                plan, writing.engine_bytes(Path(folder)), taken, self.plain, self.recipe.evaluate.gates
            )

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
            fields = writing.scripted(self.model, folder, plan)
        else:
            fields = writing.student(self.source, folder, self.recipe, self._calibrated(plan))
        return {**self.spec, **fields, "batch_invariant": None}

    def facts(self, found: search.Found) -> dict[str, Any]:
        """See `search.facts`."""
        about = {"engine": self.recipe.export.engine, "metric": self.exam.metric, "metric_float32": self.plain.metric,
                 "rows": len(self.exam), "bytes_float32": writing.engine_bytes(self.source)}  # fmt: skip
        return search.facts(found, self.recipe.export.scheme, self.recipe.evaluate.gates, about)

    def _calibrated(self, plan: Plan) -> Plan:
        if plan.scheme not in quantize.CALIBRATED:
            return plan
        if self.rows is None:
            self.rows = calibration.recorded(self.source, self.curated())
        return plan.fed(self.rows)
