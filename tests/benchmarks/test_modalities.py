"""Questions over pictures with sounds (av_mnist), over pictures (easy_vqa) and over video (clips of moving digits).

Per set one teacher, one student of at most a third of its parameters with half the key/value heads, and the control
arm: the same student and steps on hard labels alone. One seed. Validation rows are cut from train (for the clips: of
scans of their own); the test split is scored once per trained network, the student's as its INT8 bundle answers.
Everything finished stays in RAYDISTILL_CELLS (default runs/bench-cells): a killed run goes on from its last checkpoint.
"""

from __future__ import annotations

import os
import shutil
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
from jobs.data import digits, moving_digits
from jobs.data.answers import Answerer, labels_of
from jobs.data.items import COLUMNS, item_of
from jobs.distill import hard_label_stages
from jobs.packing import fits, writing
from jobs.tasks.visual_qa.task import VisualQA
from serving.bundle import predict

DATA = Path(os.environ.get("RAYDISTILL_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
CELLS = Path(os.environ.get("RAYDISTILL_CELLS", "runs/bench-cells")).resolve() / "modalities"
FILES = {"av_mnist": "av_mnist", "easy_vqa": "easy_vqa_questions"}
# Best possible from one medium alone (DATA.md): the picture's digit or the sound's.
ONE_MEDIUM = {"same": 0.540, "larger": 0.588, "difference": 0.252, "sum": 0.166}
QUESTION_ALONE = 0.670  # easy_vqa without the picture (DATA.md)
SURE = 0.85  # confidence below which the recipes' curation drops an answer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(24 * 3600),
    pytest.mark.filterwarnings("default"),  # DeepSpeed's import warns
]


def recipe_of(name: str) -> Recipe:
    """The shipped recipe, over the shared files where it needs any."""
    if name not in FILES:
        return load(name)
    stem = DATA / "multimodal" / FILES[name]
    if not stem.with_name(f"{stem.name}_train.parquet").is_file():
        pytest.skip(f"needs {stem}_train.parquet")
    return load(name, [f"data.{split}={stem}_{split}.parquet" for split in ("train", "test")])


def task_of(recipe: Recipe) -> VisualQA:
    """Its task."""
    task = tasks.of(recipe)
    assert isinstance(task, VisualQA)
    return task


def teacher(name: str) -> dict[str, Any]:
    """The teacher's figures on the test split; its weights are in CELLS/NAME-teacher/hf."""

    def make(folder: Path) -> dict[str, Any]:
        recipe = recipe_of(name)
        task = task_of(recipe)
        trained = train(folder, job_of(folder, recipe, "fit"), task.fit_columns, task)
        network = task.load(str(folder / "hf"))
        test = task.pack(task.requests("test"), None, true_labels=True)
        return trained | {"test": task.evaluate(network, test)} | sizes(network, task)

    return cell(CELLS, f"{name}-teacher", make)


def sizes(network: Any, task: VisualQA) -> dict[str, Any]:
    """Parameters (count) and bytes a token keeps in the key/value cache."""
    return {"parameters": sum(one.numel() for one in network.parameters()), "kv_bytes": task.kv_bytes(network)}


def labelled(name: str) -> tuple[pa.Table, pa.Table]:
    """Samples and soft labels of all training requests, answered once by the teacher."""
    paths = [CELLS / f"{name}-{kind}.parquet" for kind in ("samples", "soft_labels")]
    if not all(path.is_file() for path in paths):
        recipe = recipe_of(name)
        answerer = Answerer(str(CELLS / f"{name}-teacher" / "hf"), recipe.generate, str(CELLS / f"{name}-tally"))
        requests = task_of(recipe).requests("train")
        answers = pa.concat_tables([answerer(requests.slice(at, 1024)) for at in range(0, len(requests), 1024)])
        named = answers.append_column("teacher", pa.array(["teacher"] * len(answers), pa.string()))
        for path, made in zip(paths, (schema.conform(named, "samples"), labels_of(answers)), strict=True):
            pq.write_table(made, path)
    samples, labels = (pq.read_table(path) for path in paths)
    return samples, labels


def student(name: str, arm: str) -> dict[str, Any]:
    """The distilled student ("distill") or its control arm ("control"): test figures of its INT8 bundle."""

    def make(folder: Path) -> dict[str, Any]:
        teacher(name)
        recipe = recipe_of(name)
        task, job = task_of(recipe), job_of(folder, recipe, arm)
        samples, labels = labelled(name)
        kept = pc.and_(
            pc.greater_equal(samples["confidence"], SURE), pc.equal(samples["response"], samples["label_name"])
        )
        if arm == "control":
            known = samples.filter(pc.is_valid(samples["label_name"]))
            stages = hard_label_stages(recipe.distill.active, pc.sum(kept).as_py() / len(known))
            trained = train(folder, replace(job, stages=stages), lambda: task.pack(known, None, True), task)
        else:
            width = len(labels["hidden"][0]) // len(labels["hidden_scale"][0])
            own = replace(job, teacher_hidden=width)
            columns = lambda: task.pack(samples.filter(kept), labels.filter(kept), False)  # noqa: E731
            trained = train(folder, own, columns, task)
        unmerged = task.kv_bytes(task.load(job.initial))
        return trained | bundled(folder, recipe, task) | {"kv_bytes_unmerged": unmerged}

    return cell(CELLS, f"{name}-{arm}", make)


def bundled(folder: Path, recipe: Recipe, task: VisualQA) -> dict[str, Any]:
    """Sizes, and the share of test rows that the INT8 bundle answers right, all of them and by slice."""
    plain, out = folder / "float32", folder / "bundle"
    for one in (plain, out):
        shutil.rmtree(one, ignore_errors=True)
    spec = export.plain(folder / "hf", plain, recipe)
    out.mkdir()
    writing.describe(out, spec | writing.student(plain, out, recipe, fits.plans(recipe)[0]), recipe)
    requests = task.requests("test")
    answerer, right = predict.load(out), []
    for part in requests.to_batches(max_chunksize=512):
        answers = answerer.predict([item_of(row) for row in part.select([*COLUMNS]).to_pylist()])
        right += [one.text == true for one, true in zip(answers, part["label_name"].to_pylist(), strict=True)]
    right_R, slices_R = np.array(right), np.array(requests["slice"].to_pylist())
    by_slice = {name: float(right_R[slices_R == name].mean()) for name in task.slices}
    network = task.load(str(folder / "hf"))
    return {"test": {"exact_match": float(right_R.mean()), **by_slice}} | sizes(network, task)


def told(name: str, record: Callable[..., None], teacher_bar: float | None, retention_bar: float) -> dict[str, float]:
    """Train and score all three networks, record their bars, and return the student's test figures."""
    own, small, control = teacher(name), student(name, "distill"), student(name, "control")
    score, ours, plain = (one["test"]["exact_match"] for one in (own, small, control))
    if teacher_bar is not None:
        record(f"modalities_{name}_teacher", f"{name}, one seed: teacher, test split", score, "exact match",
               bar=f">= {teacher_bar}", passed=score >= teacher_bar, cell=own)  # fmt: skip
    share, kv = small["parameters"] / own["parameters"], small["kv_bytes"] / small["kv_bytes_unmerged"]
    record(f"modalities_{name}_retention", f"{name}, one seed: INT8 student over its teacher, {share:.0%} of its "
           f"parameters, {kv:.0%} of the key/value bytes", ours / score, "share",
           bar=f">= {retention_bar}, <= 1/3, <= 50 %",
           passed=ours / score >= retention_bar and share <= 1 / 3 and kv <= 0.5, student=ours, teacher=score,
           cell=small)  # fmt: skip
    record(f"modalities_{name}_above_control", f"{name}, one seed: INT8 student minus its control arm", ours - plain,
           "share", bar="> 0", passed=ours > plain, student=ours, control=plain, cell=control)  # fmt: skip
    test: dict[str, float] = small["test"]
    return test


def test_pictures_with_sounds(record: Callable[..., None]) -> None:
    test = told("av_mnist", record, 0.95, 0.98)
    margin = min(test[name] - ceiling for name, ceiling in ONE_MEDIUM.items())
    record("modalities_av_mnist_fused", "av_mnist: sum, same, larger, difference: least gain of the student over the "
           "best that one medium can do", margin, "share", bar="> 0", passed=margin > 0,
           student={name: test[name] for name in ONE_MEDIUM}, ceilings=ONE_MEDIUM)  # fmt: skip


def test_pictures(record: Callable[..., None]) -> None:
    test = told("easy_vqa", record, 0.95, 0.98)
    record("modalities_easy_vqa_fused", "easy_vqa: the student beside the best answer without the picture",
           test["exact_match"], "exact match", peer="majority answer to the question", peer_value=QUESTION_ALONE,
           bar="above it", passed=test["exact_match"] > QUESTION_ALONE)  # fmt: skip


def test_video(record: Callable[..., None]) -> None:
    test = told("video", record, None, 0.95)
    source, params = digits.pictures(), task_of(recipe_of("video")).source.params.clips  # type: ignore[attr-defined]
    known, asked = (
        moving_digits.draw(source, split, getattr(params, split), params.frames, moving_digits.SPLIT_SEEDS[split])
        for split in ("train", "test")
    )
    ceilings = moving_digits.single_frame(known, asked)
    margin = min(test[name] - ceilings[name] for name in moving_digits.MANY_FRAMES)
    record("modalities_video_order_and_motion", "clips of moving digits: direction, motion, order and counting, least "
           "gain of the student over the best that one frame can do", margin, "share", bar="> 0", passed=margin > 0,
           student={name: test[name] for name in moving_digits.MANY_FRAMES}, ceilings=ceilings)  # fmt: skip
