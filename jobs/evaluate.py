"""Measure teacher, student, INT8 student, control arm and a cheap baseline on the untouched test split, and judge.

Hands on `report.json` (a contract: docs in DESIGN and README), `predictions.parquet` (every answer), and `report.html`
for people. The report is written whether or not the gates are passed: `jobs promote` is what a failed gate stops.
"""

from __future__ import annotations

import functools
import json
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cluster import schema, session
from cluster.measured import CONTROL, STUDENT, STUDENT_INT8, TEACHER
from cluster.recipe import Recipe
from cluster.store import Artifact
from jobs import distill, export, tasks
from jobs.after import card, page
from jobs.data import tabular
from jobs.measure import (
    beyond,
    bootstrap,
    calibration,
    edge,
    exam,
    fairness,
    forgetting,
    gates,
    latency,
    metrics,
    next_tokens,
    ranking,
    side_by_side,
    slices,
)
from jobs.measure.contenders import BESIDE, Contender, ask_all, from_bundle
from jobs.measure.exam import Exam
from jobs.packing import beside
from jobs.step import Step, Work, run_name
from serving.bundle import predict

LOGIT_ROWS = 256  # rows whose INT8 and float32 logits are compared


def check(recipe: Recipe) -> None:
    """Refuse devices that nobody knows, columns that the rows do not have, and identities that cannot be compared,
    before anything runs. Raises InputError."""
    section, seed = recipe.evaluate, recipe.seed
    edge.profiles(section.edge, section.edge_profiles)
    texts = [name for name, (kind, *_) in schema.COLUMNS["requests"].items() if kind == "string"]
    for column in set(section.slice_columns) - set(texts):
        slices.in_file(recipe.data, column, texts)
    if section.fairness is not None:
        fairness.check(section.fairness, tasks.of(recipe).classes or (), seed)


def body(work: Work) -> None:
    """Write `report.json`, `predictions.parquet` and `report.html`."""
    started = time.perf_counter()
    recipe, out = work.recipe, work.draft.path
    artifacts = dict(work.parents) | _control(work)
    with tempfile.TemporaryDirectory() as aside:
        rows, asked, report = _reported(work, artifacts, Path(aside))
    judged = (report, recipe.evaluate.gates, recipe.distill.control)
    report["gates"] = gates.judge(*judged)
    report["not_measured"] |= {f"gate_{name}": why for name, why in gates.left_out(*judged).items()}
    report["artifacts"] = {kind: artifact.id for kind, artifact in artifacts.items()} | {"report": work.draft.id}
    report["seconds"] = _seconds(artifacts) | {"evaluate": round(time.perf_counter() - started, 2)}
    predictions = _predictions(rows, asked)
    curves = _curves({kind: artifact.path() for kind, artifact in artifacts.items()})
    pq.write_table(predictions, out / "predictions.parquet")
    (out / "report.json").write_text(json.dumps(report, indent=1, allow_nan=False))
    (out / "report.html").write_text(page.render(report, curves, page.examples(rows, predictions)))
    (out / "MODEL_CARD.md").write_text(card.written(report, recipe))
    failed = [name for name, _, _ in gates.failed(report["gates"])]
    headline = report["models"][STUDENT_INT8]["metrics"][report["primary_metric"]]
    work.draft.note(rows=len(rows), primary=headline, retention=report["retention"]["value"], gates_failed=failed)


def _reported(
    work: Work, artifacts: Mapping[str, Artifact], aside: Path
) -> tuple[Exam, dict[str, Contender], dict[str, Any]]:
    """The test rows, every model's contender, and the report but for what is judged and counted; files that are only
    needed meanwhile lie in the empty folder `aside`."""
    recipe, folders = work.recipe, {kind: artifact.path() for kind, artifact in artifacts.items()}
    requests = functools.cache(tasks.of(recipe).requests)
    rows = exam.of(requests("test"), recipe.evaluate.max_rows, recipe.seed)
    samples = pq.read_table(folders["samples"] / "samples.parquet", columns=["prompt", "images", "label_name"])
    models: dict[str, Path] = {kind: folders[kind] / "hf" for kind in (TEACHER, STUDENT, CONTROL) if kind in folders}
    few = next_tokens.LOGIT_ROWS if recipe.task == "text_generation" else LOGIT_ROWS
    others = beside.written(recipe, folders, aside, export.check_items_of(rows.items, few // 4))
    if recipe.task == "text_generation":
        asked, measured = next_tokens.examine(recipe, rows, models, folders["bundle"], folders["student"], others)
    else:
        asked = ask_all(rows, models, folders["bundle"], samples, recipe.task)
        measured = _measured(recipe, rows, asked, folders, others)
    report: dict[str, Any] = {
        "run": run_name(recipe),
        "recipe": {
            "name": recipe.name,
            "fingerprint": recipe.fingerprint(),
            "resolved": recipe.model_dump(mode="json"),
        },
        "commit": session.commit(),
        "rows": len(rows),
        **measured,
        **_history(folders, artifacts),
        **forgetting.measure(recipe, work.store, folders["bundle"]),
    }
    beyond.measure(
        beyond.Setting(recipe, work.store, rows, asked, artifacts, folders, others, requests, report, work.draft.path)
    )
    if report["engines"] is None:
        report["not_measured"]["engines"] = side_by_side.NONE
    return rows, asked, report


def report_of(artifact: Artifact) -> dict[str, Any]:
    """The content of a report artifact's `report.json`."""
    content: dict[str, Any] = json.loads((artifact.path() / "report.json").read_text())
    return content


def _control(work: Work) -> dict[str, Artifact]:
    """The control arm by kind, where the recipe has one. It is no parent, so that a recipe may do without; its id is
    part of the report's inputs instead. Raises ArtifactMissing when it was asked for and not trained."""
    if not work.recipe.distill.control:
        return {}
    return {distill.CONTROL.kind: work.store.get(distill.CONTROL.kind, distill.CONTROL.id(work.recipe))}


def _measured(
    recipe: Recipe, rows: Exam, asked: Mapping[str, Contender], folders: Mapping[str, Path], others: Mapping[str, Path]
) -> dict[str, Any]:
    """The numbers: `models` and what compares them."""
    section, primary = recipe.evaluate, metrics.PRIMARY[recipe.task]
    extra = {name: from_bundle(rows, folder, asked[STUDENT], BESIDE) for name, folder in others.items()}
    every = {**asked, **extra}
    engines = {name: one.engine for name, one in every.items() if one.engine is not None}
    timed = latency.interleaved(engines, latency.chosen(rows.items, section.latency_requests, recipe.seed), recipe.seed)
    right = {name: metrics.right(rows, one.texts) for name, one in asked.items()}
    score = {name: metrics.score(rows, one.texts, asked[TEACHER].texts, recipe.task) for name, one in every.items()}
    if recipe.task == "retrieval":
        score = {name: own | ranking.measured(rows.truth, every[name].answers) for name, own in score.items()}
    student, int8, teacher = asked[STUDENT], asked[STUDENT_INT8], asked[TEACHER]
    before, after = score[STUDENT][primary], score[STUDENT_INT8][primary]
    unmerged = json.loads((folders["student"] / "unmerged.json").read_text())["kv_bytes_per_token"]
    items = rows.items[:: -(-len(rows) // LOGIT_ROWS)]
    return {
        "models": {name: _model(one, score[name], rows, timed.get(name)) for name, one in asked.items()},
        "primary_metric": primary,
        "retention": bootstrap.ratio(right[STUDENT_INT8], right[TEACHER], section.bootstrap, recipe.seed),
        "control_gain": _control_gain(rows, right, section.bootstrap, recipe.seed),
        "int8": {
            "task_drop": (before - after) / before if before else None,
            "agreement": metrics.agreement(int8.texts, student.texts),
            "logit_error": logit_error(folders["bundle"], items),
        },
        "kv_share": int8.kv_bytes_per_token / unmerged if int8.kv_bytes_per_token else None,
        "param_share": student.params / teacher.params if student.params and teacher.params else None,
        "speedup": timed[TEACHER]["p50"] / timed[STUDENT_INT8]["p50"] if TEACHER in timed else None,
        "engines": side_by_side.table(
            {STUDENT_INT8: int8, **extra},
            score.__getitem__,
            lambda name: metrics.agreement(every[name].texts, student.texts),
            timed,
        ),
        "calibration": {
            name: calibration.curve(right[name], np.array([answer.confidence for answer in asked[name].answers]))
            for name in (TEACHER, STUDENT, STUDENT_INT8)
        },
    }


def _model(one: Contender, score: Mapping[str, float], rows: Exam, timed: Mapping[str, float] | None) -> dict[str, Any]:
    return {
        "metrics": dict(score), "slices": metrics.by_slice(rows, one.texts), "params": one.params,
        "params_non_embedding": one.params_non_embedding, "bytes": one.bytes,
        "kv_bytes_per_token": one.kv_bytes_per_token, "latency_ms": timed, "note": one.note,
    }  # fmt: skip


def _control_gain(rows: Exam, right: Mapping[str, np.ndarray], draws: int, seed: int) -> dict[str, Any] | None:
    """INT8 student minus control arm with its interval, on two-picture questions where there are any, else on all."""
    if CONTROL not in right:
        return None
    hard = exam.PICTURES[2]
    chosen = rows.groups[hard] if hard in rows.groups else np.ones(len(rows), bool)
    gain = bootstrap.difference(right[STUDENT_INT8][chosen], right[CONTROL][chosen], draws, seed)
    return {"on": hard if hard in rows.groups else "all rows", **gain}


def logit_error(bundle: Path, items: Sequence[Mapping[str, Any]]) -> float:
    """Relative logit error of a bundle against the `float32/` bundle below it (share), asked row by row."""
    quantized, plain = predict.load(bundle), predict.load(bundle / "float32")
    return metrics.logit_error(*([engine.logits([item])[0] for item in items] for engine in (plain, quantized)))


def _history(folders: Mapping[str, Path], artifacts: Mapping[str, Artifact]) -> dict[str, Any]:
    """What happened on the way: stages of the student (and of teacher and control), curation, rows set aside."""
    keys = ("name", "epochs", "seconds", "shares", "before", "after", "steps", "stopped", "kept", "layers")
    told = {
        kind: [{key: stage[key] for key in keys} for stage in progress["stages"]]
        for kind, progress in _progress(folders).items()
    }
    curation = artifacts["curated"].manifest.facts
    letters = pq.read_table(folders["samples"] / "dead_letters.parquet", columns=["step", "reason"]).to_pylist()
    return {
        "stages": told.pop("student"),
        "stages_of": told,
        "curation": {key: curation[key] for key in ("in", "kept", "reasons", "gates")},
        "dead_letters": dict(Counter(f"{row['step']}: {row['reason']}" for row in letters)),
    }


def _progress(folders: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
    """`history.json` of teacher, student and control, where they were trained."""
    paths = {kind: folders[kind] / "history.json" for kind in (TEACHER, STUDENT, CONTROL) if kind in folders}
    return {kind: json.loads(path.read_text()) for kind, path in paths.items() if path.is_file()}


def _curves(folders: Mapping[str, Path]) -> dict[str, list[dict[str, Any]]]:
    return {kind: progress["curve"] for kind, progress in _progress(folders).items()}


def _seconds(artifacts: Mapping[str, Artifact]) -> dict[str, float]:
    """Wall time of each step that led here (s), by the step's name."""
    names = {step.kind: step.name for step in (*STEP.parents, distill.CONTROL)}
    return {names[kind]: artifact.manifest.seconds for kind, artifact in artifacts.items()}


def _predictions(rows: Exam, asked: Mapping[str, Contender]) -> pa.Table:
    """One row per test row: truth, and each model's answer and confidence (null where it has none)."""
    columns: dict[str, Any] = {"sample_id": rows.ids, "slice": rows.slices, "truth": rows.truth}
    for name, one in asked.items():
        columns[name] = one.texts
        confidence = np.array([answer.confidence for answer in one.answers], np.float32)
        columns[f"{name}_confidence"] = pa.array(confidence, from_pandas=True)
    return pa.table(columns)


def _inputs(recipe: Recipe) -> dict[str, Any]:
    # The report quotes the whole recipe, and the control arm and the audited sentences are read without being parents.
    own = {"recipe": recipe.fingerprint(), "control": distill.CONTROL.id(recipe) if recipe.distill.control else None}
    audited = recipe.evaluate.fairness
    return own if audited is None else own | {"templates": tabular.sha256(Path(audited.templates).expanduser())}


STEP = Step(
    "evaluate",
    "report",
    3,
    ("evaluate",),
    (*distill.PARENTS, distill.STEP, export.STEP),
    body,
    _inputs,
)
