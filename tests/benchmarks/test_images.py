"""Fashion-MNIST: a depthwise-separable student of at most 86,000 parameters beside its teacher and its control arm.

One teacher, three seeds of the student (mean and standard deviation), each with its control arm: the same student,
rows, views that keep their label, and number of steps, on hard labels alone. Validation rows are cut from train; the
official test split is scored once per trained network. Everything finished stays in RAYDISTILL_CELLS (default
runs/bench-cells): a run that was killed trains on from its last checkpoint.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from cells import cell, job_of, train

from cluster import schema
from cluster.recipe import Recipe, load
from jobs import export, tasks
from jobs.data.answers import Answerer, labels_of
from jobs.data.items import COLUMNS
from jobs.distill import hard_label_stages
from jobs.packing import calibration, checking, fits, writing
from jobs.tasks.image_classification import ImageClassification
from serving.bundle import predict

DATA = Path(os.environ.get("RAYDISTILL_DATA", Path(__file__).resolve().parents[3] / "shared" / "data")) / "image"
CELLS = Path(os.environ.get("RAYDISTILL_CELLS", "runs/bench-cells")).resolve() / "images"
SEEDS = (0, 1, 2)
VIEWS = "{count: 2, shift: 0.08, flip: true%s}"
KD = "{name: forward_kl, weight: 0.7, params: {temperature: 5.0}}, {name: cross_entropy, weight: 0.3}"
OVERRIDES = [
    "data.source=table",
    f"data.train={DATA}/fashion_mnist_train.parquet",
    f"data.test={DATA}/fashion_mnist_test.parquet",
    "teacher.params={}",
    "student.params={}",
    f"fit.views={VIEWS % ''}",
    "fit.batch_size=128",
    "fit.stages=[{name: fit, epochs: 3, learning_rate: 3.0e-3, weight_decay: 0.05, losses: [{name: cross_entropy}]}]",
    f"generate.views={VIEWS % ', mixed: 0.5'}",
    "generate.hidden_layer=null",
    "distill.batch_size=128",
    f"distill.stages=[{{name: soft_labels, epochs: 2.5, learning_rate: 5.0e-3, losses: [{KD}]}}]",
]
THIRD = "student={architecture: resnet, params: {stem: 24, widths: [40, 80, 144]}}"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(24 * 3600),
    pytest.mark.skipif(not (DATA / "fashion_mnist_train.parquet").is_file(), reason=f"needs {DATA}"),
    pytest.mark.filterwarnings("default"),  # DeepSpeed's import warns
]


def recipe_of(*more: str) -> Recipe:
    """The vision recipe on Fashion-MNIST."""
    return load("vision", [*OVERRIDES, *more])


def task_of(recipe: Recipe) -> ImageClassification:
    """Its task, checked."""
    task = tasks.of(recipe)
    assert isinstance(task, ImageClassification)
    return task


def scored(folder: Path, task: ImageClassification) -> dict[str, Any]:
    """Parameters and accuracy on validation and on the official test split."""
    network = task.load(str(folder / "hf"))
    test = task.pack(task.requests("test"), None, true_labels=True)
    return {
        "parameters": sum(value.numel() for value in network.parameters()),
        "validation": task.evaluate(network, task.validation_columns())["accuracy"],
        "test": task.evaluate(network, test)["accuracy"],
    }


def teacher() -> dict[str, Any]:
    """The one teacher: its figures; its weights are in CELLS/teacher/hf."""

    def make(folder: Path) -> dict[str, Any]:
        recipe = recipe_of()
        task = task_of(recipe)
        if (folder / "hf" / "task.json").is_file():
            return scored(folder, task)
        seconds = train(folder, job_of(folder, recipe, "fit"), task.fit_columns, task)["seconds"]
        return scored(folder, task) | {"seconds": seconds}

    return cell(CELLS, "teacher", make)


def labelled() -> tuple[pa.Table, pa.Table]:
    """Samples and soft labels of all training requests, answered once by the teacher."""
    paths = [CELLS / f"{name}.parquet" for name in ("samples", "soft_labels")]
    if not all(path.is_file() for path in paths):
        recipe = recipe_of()
        answerer = Answerer(str(CELLS / "teacher" / "hf"), recipe.generate, str(CELLS / "tally"))
        requests = task_of(recipe).requests("train")
        parts = [answerer(requests.slice(start, 4096)) for start in range(0, len(requests), 4096)]
        answers = pa.concat_tables(parts)
        named = answers.append_column("teacher", pa.array(["teacher"] * len(answers), pa.string()))
        for path, made in zip(paths, (schema.conform(named, "samples"), labels_of(answers)), strict=True):
            pq.write_table(made, path)
    samples, labels = (pq.read_table(path) for path in paths)
    return samples, labels


def student(arm: str, seed: int, kind: str = "separable", *more: str) -> dict[str, Any]:
    """A distilled student ("distill") or its control arm ("control") of one seed."""

    def make(folder: Path) -> dict[str, Any]:
        teacher()
        recipe = recipe_of(*more).model_copy(update={"seed": seed})
        task, job = task_of(recipe_of(*more)), job_of(folder, recipe, arm)
        samples, labels = labelled()
        known = samples.filter(pc.is_valid(samples["label"]))
        if arm == "control":
            stages = hard_label_stages(recipe.distill.active, len(samples) / len(known))
            seconds = train(folder, replace(job, stages=stages), lambda: task.pack(known, None, True), task)["seconds"]
        else:
            seconds = train(folder, job, lambda: task.pack(samples, labels, False), task)["seconds"]
        return scored(folder, task) | {"seconds": seconds}

    return cell(CELLS, f"{kind}-{arm}-{seed}", make)


def spread(values: list[float]) -> str:
    """Mean and standard deviation over seeds, in percent."""
    return f"{100 * statistics.mean(values):.2f} +- {100 * statistics.stdev(values):.2f} %"


def test_the_small_student_is_at_most_two_points_under_its_teacher(record: Callable[..., None]) -> None:
    own = teacher()
    record("images_teacher", "fashion_mnist: residual teacher, official test split", own["test"], "accuracy",
           bar=">= 0.93", passed=own["test"] >= 0.93, **own)  # fmt: skip
    arms = {arm: [student(arm, seed) for seed in SEEDS] for arm in ("distill", "control")}
    means = {arm: statistics.mean(one["test"] for one in found) for arm, found in arms.items()}
    told = {arm: spread([one["test"] for one in found]) for arm, found in arms.items()}
    size = arms["distill"][0]["parameters"]
    record("images_student", f"fashion_mnist: separable student of {size:,} parameters, mean of 3 seeds",
           means["distill"], "accuracy", peer="its teacher", peer_value=own["test"],
           bar="at most 2 points under its teacher, <= 86,000 parameters",
           passed=own["test"] - means["distill"] <= 0.02 and size <= 86_000, spread=told, cells=arms)  # fmt: skip
    record("images_above_control", "fashion_mnist: the student minus its control arm, mean of 3 seeds",
           means["distill"] - means["control"], "accuracy", bar="> 0", passed=means["distill"] > means["control"],
           spread=told)  # fmt: skip
    record("images_1.2m_to_86k", "fashion_mnist: 1.2 M -> 86 K, parameters of the teacher over the student's",
           own["parameters"] / size, "x", bar=">= 13.95 (1.2 M / 86 K)", passed=own["parameters"] / size >= 13.95,
           points_lost=100 * (own["test"] - means["distill"]))  # fmt: skip


def test_int8_keeps_the_students_answers(record: Callable[..., None], tmp_path: Path) -> None:
    student("distill", 0)
    recipe, plain = recipe_of(), tmp_path / "float32"
    task, model = task_of(recipe_of()), CELLS / "separable-distill-0" / "hf"
    spec = export.plain(model, plain, recipe)
    rows = checking.check_items(task.requests("train").select([*COLUMNS]).to_pylist(), calibration.ROWS)
    plan = fits.plans(recipe)[0].fed(calibration.recorded(plain, rows))
    writing.describe(tmp_path, spec | writing.student(plain, tmp_path, recipe, plan), recipe)
    rows = task.requests("test").select(["images", "label_name"]).to_pylist()
    items, truth = [{"images": row["images"]} for row in rows], [row["label_name"] for row in rows]
    said = {name: [one.text for one in predict.load(folder).predict(items)]
            for name, folder in (("int8", tmp_path), ("float32", plain))}  # fmt: skip
    right = {name: float(np.mean([a == b for a, b in zip(own, truth, strict=True)])) for name, own in said.items()}
    agreement = float(np.mean([a == b for a, b in zip(said["int8"], said["float32"], strict=True)]))
    drop = (right["float32"] - right["int8"]) / right["float32"]
    sizes = {name: export.engine_bytes(folder) for name, folder in (("int8", tmp_path), ("float32", plain))}
    record("images_int8", "fashion_mnist: relative drop of accuracy by static INT8, seed 0", drop, "share",
           bar="< 0.02", passed=drop < 0.02, agreement=agreement, accuracy=right, bytes=sizes)  # fmt: skip


def test_a_student_of_two_fifths_of_the_parameters_loses_less_than_a_point(record: Callable[..., None]) -> None:
    own, small = teacher(), student("distill", 0, "third", THIRD)
    ratio, lost = own["parameters"] / small["parameters"], 100 * (own["test"] - small["test"])
    record("images_25.6m_to_9.1m", "fashion_mnist: points lost at 2.8x fewer parameters (25.6 M -> 9.1 M by ratio)",
           lost, "points", bar="<= 0.8 at >= 2.81x fewer parameters", passed=lost <= 0.8 and ratio >= 2.81,
           fewer_parameters=ratio, **small)  # fmt: skip
