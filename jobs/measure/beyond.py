"""Everything that the report says beyond the score: where the student is good, how sure it is, what it bears and costs.

One entry of `PARTS` is one key of the report, measured in this order, each with its time. A part that has nothing to
measure raises `NotMeasured`, and its reason stands in the report instead of a number.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cluster.recipe import Recipe
from cluster.store import Artifact, Store
from jobs.before import licences
from jobs.measure import (
    calibration,
    champion,
    cost,
    edge,
    exam,
    fairness,
    golden,
    intervals,
    metrics,
    money,
    per_class,
    robustness,
    slices,
    transfer,
)
from jobs.measure.contenders import Contender
from jobs.measure.exam import Exam
from serving.bundle import predict

GENERATED = "text_generation"
SERVED, FLOAT, TEACHER = "student_int8", "student", "teacher"
SHOWN = (TEACHER, FLOAT, SERVED)


class NotMeasured(Exception):
    """There is nothing to measure here; says why."""


@dataclass(frozen=True)
class Setting:
    """What has been asked so far: the exam, every model's answers, where things lie, and the report up to here."""

    recipe: Recipe
    store: Store
    rows: Exam
    asked: Mapping[str, Contender]
    artifacts: Mapping[str, Artifact]
    folders: Mapping[str, Path]
    requests: Callable[[str], pa.Table]
    report: dict[str, Any]
    out: Path

    @property
    def bundle(self) -> Path:
        """The folder that is served."""
        return self.folders["bundle"]

    @property
    def right(self) -> dict[str, np.ndarray]:
        """Per model whether each answer is right, bool [R]."""
        return {name: metrics.right(self.rows, self.asked[name].texts) for name in SHOWN}

    def answers_only(self) -> None:
        """Raise NotMeasured for a language model: its answers are next tokens, not labels."""
        if self.recipe.task == GENERATED:
            raise NotMeasured("a language model is measured by its next tokens")


def measure(setting: Setting) -> None:
    """Put every part into `setting.report`, with `not_measured` and `evaluate_seconds`."""
    report = setting.report
    report["not_measured"], report["evaluate_seconds"] = {}, {}
    for name, part in PARTS.items():
        started = time.perf_counter()
        try:
            report[name] = part(setting)
        except NotMeasured as why:
            report["not_measured"][name] = str(why)
            report.setdefault(name, None)  # calibration is there already, without its temperature
        report["evaluate_seconds"][name] = round(time.perf_counter() - started, 2)


def asker(engine: predict.Answerer) -> robustness.Ask:
    """Ask a bundle for texts: in batches where answers do not depend on them, else one by one as a server does."""
    together = engine.spec["batch_invariant"] or engine.spec["scheme"] == "float32"

    def ask(items: Sequence[Mapping[str, Any]]) -> list[str]:
        answers = engine.predict(items) if together else [engine.predict([item])[0] for item in items]
        return [answer.text for answer in answers]

    return ask


def _intervals(setting: Setting) -> dict[str, Any]:
    setting.answers_only()
    section, primary = setting.recipe.evaluate, setting.report["primary_metric"]
    teacher = setting.asked[TEACHER].texts
    return {
        name: intervals.measure(setting.rows.truth, one.texts, teacher, primary, section.bootstrap, setting.recipe.seed)
        for name, one in setting.asked.items()
    }


def _per_class(setting: Setting) -> dict[str, Any]:
    setting.answers_only()
    found = {name: per_class.measure(setting.rows.truth, setting.asked[name].texts) for name in (TEACHER, SERVED)}
    if found[SERVED] is None:
        raise NotMeasured("true answers are texts, not classes")
    return found


def _slices(setting: Setting) -> dict[str, Any]:
    setting.answers_only()
    rows, right = setting.rows, setting.right
    sure = np.array([answer.confidence for answer in setting.asked[SERVED].answers])
    names = {
        "slice": list(rows.slices),
        "length": slices.by_length([item["text"] for item in rows.items]),
        "confidence": slices.by_confidence(sure),
    }
    for column in setting.recipe.evaluate.slice_columns:
        by_id = slices.by_column(setting.recipe.data, setting.requests("test"), column)
        names[column] = [by_id[key] for key in rows.ids]
    return {name: slices.table(own, right, SERVED) for name, own in names.items() if len(set(own)) > 1}


def _calibration(setting: Setting) -> dict[str, Any]:
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
        right_R = metrics.right(fitted_on, [answer.text for answer in _one_by_one(engine, fitted_on)])
        value = calibration.temperature_of_answers(logits, right_R)
    else:
        truth_R = np.array([labels.index(true) for true in fitted_on.truth])
        value = calibration.temperature_of_classes(np.concatenate(logits), truth_R)
    after = calibration.curve(setting.right[SERVED], calibration.confidences(test, value))
    before = calibration.curve(setting.right[SERVED], calibration.confidences(test))
    temperature = {"value": value, "fitted_on": len(fitted_on), "ece_before": before["ece"], "ece_after": after["ece"],
                   "bins_after": after["bins"]}  # fmt: skip
    return {**found, SERVED: {**found[SERVED], "temperature": temperature}}


def _one_by_one(engine: predict.Answerer, rows: Exam) -> list[predict.Answer]:
    return [engine.predict([item])[0] for item in rows.items]


def _golden(setting: Setting) -> dict[str, Any]:
    recipe = setting.recipe
    setting.answers_only()
    rows = golden.chosen(
        exam.of(setting.requests("validation"), None, recipe.seed), recipe.evaluate.golden_rows, recipe.seed
    )
    engines = {FLOAT: predict.load(setting.bundle / "float32"), SERVED: predict.load(setting.bundle)}
    answers = {name: [answer.text for answer in _one_by_one(engine, rows)] for name, engine in engines.items()}
    version, why = champion.find(recipe, setting.store)
    if version is not None:
        answers["champion"] = [answer.text for answer in _one_by_one(version.engine, rows)]
    else:
        setting.report["not_measured"]["champion"] = why
    pq.write_table(golden.table(rows, answers), setting.out / "golden.parquet")
    about = None if version is None else {"model": version.model, "version": version.version}
    return {**golden.measure(rows, answers), "seed": recipe.seed, "champion": about}


def _transfer(setting: Setting) -> dict[str, Any]:
    recipe, asked = setting.recipe, setting.asked
    models = {name: setting.folders[name] / "hf" for name in (TEACHER, FLOAT)}
    rows = recipe.evaluate.transfer_rows
    found: dict[str, Any] = {"cka": transfer.layers(recipe, models, rows) if rows else None}
    if recipe.task == GENERATED:
        return found
    texts = {name: asked[name].texts for name in (FLOAT, SERVED)}
    sure = np.array([answer.confidence for answer in asked[TEACHER].answers])
    return {
        **found,
        "agreement_by_confidence": transfer.by_confidence(sure, setting.right[TEACHER], asked[TEACHER].texts, texts),
        **transfer.shared(setting.rows.truth, asked[TEACHER].texts, texts[SERVED]),
    }


def _robustness(setting: Setting) -> dict[str, Any]:
    setting.answers_only()
    recipe, section = setting.recipe, setting.recipe.evaluate.robustness
    if section is None:
        raise NotMeasured("evaluate.robustness is null")
    asks = {SERVED: asker(predict.load(setting.bundle))}
    if (setting.bundle / "teacher").is_dir():
        asks[TEACHER] = asker(predict.load(setting.bundle / "teacher"))
    requests = robustness.sampled(setting.requests("test"), section.rows, recipe.seed)
    found = robustness.measure(robustness.Sample(requests, asks, recipe.evaluate.bootstrap, recipe.seed))
    pairs: Any = section.swaps or recipe.generate.views.get("pairs") or {}
    return {**found, "swaps": robustness.swaps(setting.rows, asks, pairs, section.rows)}


def _fairness(setting: Setting) -> dict[str, Any]:
    section = setting.recipe.evaluate.fairness
    if section is None:
        raise NotMeasured("evaluate.fairness is null: no identity slices")
    engine = predict.load(setting.bundle)
    return fairness.measure(section, lambda items: [engine.predict([item])[0] for item in items], setting.recipe.seed)


def _few(setting: Setting) -> list[Mapping[str, Any]]:
    """Requests of the fresh processes. Raises NotMeasured where there are to be none."""
    count = setting.recipe.evaluate.fresh_requests
    if not count:
        raise NotMeasured("evaluate.fresh_requests is 0")
    return list(setting.rows.items[:count])


def _cost(setting: Setting) -> dict[str, Any]:
    timed = {name: own["latency_ms"] for name, own in setting.report["models"].items()}
    return cost.measure(setting.bundle, _few(setting), timed)


def _edge(setting: Setting) -> list[dict[str, Any]]:
    section, items = setting.recipe.evaluate, _few(setting)
    served = setting.report["cost"]["engines"][SERVED]
    devices = edge.profiles(section.edge, section.edge_profiles)
    return edge.measure(devices, setting.bundle, items, served["file_bytes"], served["activation_peak_bytes"])


def _money(setting: Setting) -> dict[str, Any]:
    prices = setting.recipe.evaluate.prices
    if prices is None:
        raise NotMeasured("evaluate.prices is null")
    _few(setting)
    engines = setting.report["cost"]["engines"]
    seconds = {name: engines[own]["cpu_ms"] / 1000 if own in engines else None
               for name, own in ((TEACHER, TEACHER), (FLOAT, SERVED))}  # fmt: skip
    hours = sum(artifact.manifest.seconds for kind, artifact in setting.artifacts.items() if kind != "control") / 3600
    labelled = pq.read_metadata(setting.folders["samples"] / "samples.parquet").num_rows
    limit = setting.recipe.serving.confidence_min
    deferred = np.mean([answer.confidence < limit for answer in setting.asked[SERVED].answers])
    return money.measure(prices, seconds, hours, labelled, float(deferred))


def _licences(setting: Setting) -> dict[str, Any]:
    judged = licences.judge(setting.recipe)
    allows = [one.allows for one in judged]
    verdict = False if False in allows else None if None in allows else True
    return {"allows": verdict, **licences.facts(setting.recipe)}


PARTS: Mapping[str, Callable[[Setting], Any]] = {
    "intervals": _intervals,
    "per_class": _per_class,
    "slices": _slices,
    "calibration": _calibration,
    "golden": _golden,
    "transfer": _transfer,
    "robustness": _robustness,
    "fairness": _fairness,
    "cost": _cost,
    "edge": _edge,
    "money": _money,
    "licences": _licences,
}
