"""Quality of text students on banking77 and clinc150: one teacher a set, three seeds of the student, each with its
control arm (same student, same steps, true labels alone), beside TF-IDF and a linear SVM.

A cell is one seed of one set: a whole run of the recipe by its command, into a store that cells share, and a JSON file
when it is done. The store lies under RAYDISTILL_CELLS (default runs/bench-cells), where a killed run goes on; the files
lie beside this one, in `data/texts`, and are committed, so that hours of cells may be of several machines. A cell whose
file is there is not run again: remove it to measure it anew. The test split is read by `evaluate`, once per cell;
limits are chosen on validation rows.
"""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from cluster.recipe import load
from cluster.store import Store
from jobs import export, tasks
from jobs.measure import baselines
from serving.bundle import predict
from serving.teachers import transformers

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data" / "text"
CELLS = Path(os.environ.get("RAYDISTILL_CELLS", "runs/bench-cells")).resolve() / "texts"
DONE = Path(__file__).with_name("data") / "texts"
SEEDS = (0, 1, 2)
SPLITS = {"banking77": ("train", "test"), "clinc150": ("train", "validation", "test")}
OUT_OF_SCOPE = "oos"
IN_SCOPE_LOST = 0.005  # accuracy in scope that a limit on the confidence may cost on validation rows (share)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(12 * 3600),
    pytest.mark.skipif(not DATA.is_dir(), reason="needs banking77 and clinc150 in ../shared/data/text"),
]


def overrides(name: str, seed: int) -> list[str]:
    """The recipe's files and the student's seed; gates are judged here, over all seeds."""
    files = [f"data.{split}={DATA / f'{name}_{split}.parquet'}" for split in SPLITS[name]]
    off = [f"evaluate.gates.{gate}=null" for gate in ("retention_min", "above_control", "teacher_metric_min")]
    return [*files, *off, f"distill.seed={seed}"]


def cell(name: str, seed: int) -> dict[str, Any]:
    """What one seed measured: accuracies and sizes of its report, and for clinc150 what is in scope and out of it."""
    path = DONE / f"{name}_{seed}.json"
    if path.is_file():
        return dict(json.loads(path.read_text()))
    CELLS.mkdir(parents=True, exist_ok=True)
    DONE.mkdir(exist_ok=True)
    own, store = overrides(name, seed), CELLS / "store"
    command = [sys.executable, "-m", "jobs", "run", name, "--until", "evaluate", "--store", str(store), "--json"]
    command += [word for value in own for word in ("--set", value)]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    kept, artifacts = Store.open(store), json.loads(done.stdout)["artifacts"]
    report = json.loads((kept.get("report", artifacts["report"]).path() / "report.json").read_text())
    keys = ("metrics", "params", "params_non_embedding", "bytes", "latency_ms")
    found = {
        "models": {kind: {key: model[key] for key in keys} for kind, model in report["models"].items()},
        "retention": report["retention"], "speedup": report["speedup"], "seconds": report["seconds"],
        "param_share": report["param_share"], "commit": report["commit"],
        "date": datetime.date.today().isoformat(),
    }  # fmt: skip
    if name == "clinc150":
        found["scope"] = scope(own, kept, artifacts)
    aside = path.with_suffix(".new")
    aside.write_text(json.dumps(found, indent=1))
    aside.replace(path)
    return found


def scope(own: Sequence[str], store: Store, artifacts: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Per model, accuracy in scope and recall out of it on test rows: of the class alone, and of the class or a
    confidence below the limit that validation rows chose; `rule` is the better one there."""
    recipe = load("clinc150", list(own))
    task = tasks.of(recipe)
    asked = {
        split: task.requests(split).select(["prompt", "label_name"]).to_pylist() for split in ("validation", "test")
    }
    samples = pq.read_table(store.get("samples", artifacts["samples"]).path() / "samples.parquet")
    engines: dict[str, Any] = {
        kind: transformers.load(store.get(kind, artifacts[kind]).path() / "hf").answer
        for kind in ("teacher", "control")
    }
    engines["student_int8"] = predict.load(store.get(export.STEP.kind, artifacts["bundle"]).path()).predict
    engines["baseline"] = baselines.fit(recipe.task, samples).predict
    found: dict[str, dict[str, Any]] = {}
    for kind, answer in engines.items():
        said = {split: answer([{"text": row["prompt"]} for row in rows]) for split, rows in asked.items()}
        truth = {split: [row["label_name"] for row in rows] for split, rows in asked.items()}
        limit = 0.0 if kind == "baseline" else chosen(truth["validation"], said["validation"])
        rules = {"class": 0.0, "class_or_limit": limit}
        scores = {
            split: {rule: judged(truth[split], said[split], least) for rule, least in rules.items()} for split in asked
        }
        better = max(rules, key=lambda rule: sum(scores["validation"][rule].values()))
        found[kind] = {**scores["test"][better], "rule": better, "limit": rules[better], "by_rule": scores}
    return found


def judged(truth: Sequence[str], said: Sequence[predict.Answer], least: float) -> dict[str, float]:
    """Accuracy of rows in scope, and recall of those out of it; an answer below `least` counts as out of scope."""
    given = [OUT_OF_SCOPE if answer.confidence < least else answer.text for answer in said]
    inside = [own == true for own, true in zip(given, truth, strict=True) if true != OUT_OF_SCOPE]
    outside = [own == OUT_OF_SCOPE for own, true in zip(given, truth, strict=True) if true == OUT_OF_SCOPE]
    return {"in_scope": float(np.mean(inside)), "out_of_scope": float(np.mean(outside))}


def chosen(truth: Sequence[str], said: Sequence[predict.Answer]) -> float:
    """The highest limit on the confidence that costs at most IN_SCOPE_LOST of the accuracy in scope."""
    least = judged(truth, said, 0.0)["in_scope"] - IN_SCOPE_LOST
    limits = [limit / 100 for limit in range(1, 100)]
    return max([0.0, *(limit for limit in limits if judged(truth, said, limit)["in_scope"] >= least)])


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", SPLITS)
def test_a_cell(name: str, seed: int) -> None:
    assert set(cell(name, seed)["models"]) == {"teacher", "student", "student_int8", "control", "baseline"}


@pytest.mark.parametrize("name", SPLITS)
def test_students_of_three_seeds_beside_their_control_and_the_svm(name: str, record: Callable[..., None]) -> None:
    done = [seed for seed in SEEDS if (DONE / f"{name}_{seed}.json").is_file()]
    if not done:
        pytest.skip(f"no cell of {name} is done")
    cells = [cell(name, seed) for seed in done]
    each = {kind: [scores(one, kind) for one in cells] for kind in cells[0]["models"] if kind != "student"}
    student, control, teacher, svm = (mean(each[kind]) for kind in ("student_int8", "control", "teacher", "baseline"))
    sizes = {kind: model["params_non_embedding"] for kind, model in cells[0]["models"].items()}
    share, size = sizes["student"] / sizes["teacher"], cells[0]["models"]["student_int8"]["bytes"]
    small, spread = share <= 0.1 and size <= 6_000_000, stdev(each["student_int8"]) if len(done) > 1 else None
    told = {
        "seeds": len(done),
        "cells": [{"commit": one["commit"], "date": one["date"]} for one in cells],
        "each": each,
        "std": spread,
        "share_of_parameters": share,
        "bytes": size,
    }
    about = f"{name}: INT8 student, {share:.1%} of the teacher's parameters without embeddings, {len(done)} seed(s)"
    bar = ">= 0.99, above the SVM, <= 10 % of the parameters, <= 6 MB"
    kept = student / teacher
    rows: list[tuple[str, str, float, str, str | None, float | None, str, bool]] = [
        ("retention", f"{about}, over the teacher", kept, "share", "teacher", teacher, bar,
         kept >= 0.99 and student > svm and small),
        ("accuracy", about, student, "accuracy", "TF-IDF + linear SVM", svm, "above the SVM", student > svm),
        ("above_control", about, student, "accuracy", "control arm", control, "above the control", student > control),
        ("teacher", f"{name}: teacher", teacher, "accuracy", "TF-IDF + linear SVM", svm, "above it", teacher > svm),
    ]  # fmt: skip
    whole = cells[0]["models"]["teacher"]["bytes"]
    rows.append(
        ("smaller", f"{name}: bytes saved", 1 - size / whole, "share", None, None, ">= 0.85", size <= 0.15 * whole)
    )
    faster = mean(one["speedup"] for one in cells)
    what = f"{name}: INT8 student over the float32 teacher, same engine, batch 1"
    rows.append(("faster", what, faster, "x", None, None, ">= 1.5", faster >= 1.5))
    if name == "clinc150":
        outside, theirs = (
            mean(one["scope"][kind]["out_of_scope"] for one in cells) for kind in ("student_int8", "baseline")
        )
        what = "clinc150: recall of questions out of scope, INT8 student"
        peer = ("TF-IDF + linear SVM", theirs, "above the SVM", outside > theirs)
        rows.append(("out_of_scope", what, outside, "recall", *peer))
        told["scope"] = [one["scope"] for one in cells]
    for key, what, ours, unit, peer_name, value, least, passed in rows:
        record(
            f"text.{name}.{key}", what, ours, unit, peer=peer_name, peer_value=value, bar=least, passed=passed, **told
        )


def scores(one: Mapping[str, Any], kind: str) -> float:
    """A model's accuracy; of clinc150 on rows in scope."""
    return float(one["scope"][kind]["in_scope"] if "scope" in one else one["models"][kind]["metrics"]["accuracy"])
