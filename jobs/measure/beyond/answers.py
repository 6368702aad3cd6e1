"""Parts that look at the answers: how sure they are, where they are right, and whose they are like."""

from __future__ import annotations

from typing import Any

import numpy as np

from cluster.measured import STUDENT, STUDENT_INT8, TEACHER
from jobs.measure import calibration, exam, intervals, metrics, per_class, slices, transfer, written
from jobs.measure.beyond.setting import GENERATED, SHOWN, NotMeasured, Setting, asker, one_by_one
from serving.bundle import predict


def intervals_part(setting: Setting) -> dict[str, Any]:
    """95 % intervals of each model's metrics."""
    setting.answers_only()
    section, primary = setting.recipe.evaluate, setting.report["primary_metric"]
    teacher = setting.asked[TEACHER].texts
    return {
        name: intervals.measure(setting.rows.truth, one.texts, teacher, primary, section.bootstrap, setting.recipe.seed)
        for name, one in setting.asked.items()
    }


def per_class_part(setting: Setting) -> dict[str, Any]:
    """Precision, recall, F1 and confusions of teacher and served student."""
    setting.answers_only()
    found = {name: per_class.measure(setting.rows.truth, setting.asked[name].texts) for name in (TEACHER, STUDENT_INT8)}
    if found[STUDENT_INT8] is None:
        raise NotMeasured("true answers are texts, not classes")
    return found


def slices_part(setting: Setting) -> dict[str, Any]:
    """Shares right by slice, length, confidence and the recipe's own columns."""
    setting.answers_only()
    rows, right = setting.rows, setting.right
    sure = np.array([answer.confidence for answer in setting.asked[STUDENT_INT8].answers])
    names = {
        "slice": list(rows.slices),
        "length": slices.by_length([item["text"] for item in rows.items]),
        "confidence": slices.by_confidence(sure),
    }
    for column in setting.recipe.evaluate.slice_columns:
        by_id = slices.by_column(setting.recipe.data, setting.requests("test"), column)
        names[column] = [by_id[key] for key in rows.ids]
    return {name: slices.table(own, right, STUDENT_INT8) for name, own in names.items() if len(set(own)) > 1}


def calibration_part(setting: Setting) -> dict[str, Any]:
    """The curves that are there, and the temperature that would repair the served student's."""
    found: dict[str, Any] = setting.report["calibration"]
    setting.answers_only()
    count = setting.recipe.evaluate.calibration_rows
    if not count:
        raise NotMeasured("evaluate.calibration_rows is 0")
    engine = predict.load(setting.bundle)
    known = exam.of(setting.requests("validation"), count, setting.recipe.seed)
    sides = [([engine.logits([item])[0] for item in rows.items], rows) for rows in (known, setting.rows)]
    (logits, fitted_on), (test, _) = sides
    labels = engine.spec["labels"] if setting.recipe.task.endswith("classification") else None
    if labels is None:
        right_R = metrics.right(fitted_on, one_by_one(engine, fitted_on))
        value = calibration.temperature_of_answers(logits, right_R)
    else:
        truth_R = np.array([labels.index(true) for true in fitted_on.truth])
        value = calibration.temperature_of_classes(np.concatenate(logits), truth_R)
    after = calibration.curve(setting.right[STUDENT_INT8], calibration.confidences(test, value))
    before = calibration.curve(setting.right[STUDENT_INT8], calibration.confidences(test))
    temperature = {"value": value, "fitted_on": len(fitted_on), "ece_before": before["ece"], "ece_after": after["ece"],
                   "bins_after": after["bins"]}  # fmt: skip
    return {**found, STUDENT_INT8: {**found[STUDENT_INT8], "temperature": temperature}}


def transfer_part(setting: Setting) -> dict[str, Any]:
    """Layers that look alike, and agreement by the teacher's confidence."""
    recipe, asked = setting.recipe, setting.asked
    models = {name: setting.folders[name] / "hf" for name in (TEACHER, STUDENT)}
    rows = recipe.evaluate.transfer_rows
    found: dict[str, Any] = {"cka": transfer.layers(recipe, models, rows) if rows else None}
    if found["cka"] is None:
        absent = "the teacher's network is not here, or the task does not show its layers"
        setting.report["not_measured"]["cka"] = absent if rows else "evaluate.transfer_rows is 0"
    if recipe.task == GENERATED:  # next tokens: there is no row that is right or wrong
        return {**found, "agreement_by_confidence": [], "of_teacher_right": None, "of_teacher_wrong": None}
    texts = {name: asked[name].texts for name in (STUDENT, STUDENT_INT8)}
    sure = np.array([answer.confidence for answer in asked[TEACHER].answers])
    return {
        **found,
        "agreement_by_confidence": transfer.by_confidence(sure, setting.right[TEACHER], asked[TEACHER].texts, texts),
        **transfer.shared(setting.rows.truth, asked[TEACHER].texts, texts[STUDENT_INT8]),
    }


def written_part(setting: Setting) -> dict[str, Any]:
    """Texts that language models write: BLEU and exact match by model."""
    count = setting.recipe.evaluate.written_rows
    if setting.recipe.task != GENERATED or not count:
        raise NotMeasured("no texts are written" if count else "evaluate.written_rows is 0")
    continues = bool(predict.load(setting.bundle).spec["continues"])
    items, truth = written.exercise(setting.rows, continues, count)
    asked = {name: setting.asked[name].engine for name in SHOWN}
    return {"rows": len(items), **{
        name: written.scores(asker(engine)(items), truth, continues)  # type: ignore[arg-type]  # a bundle's, not a baseline
        for name, engine in asked.items() if engine is not None
    }}  # fmt: skip
