"""Parts that look at what an answer takes and what it bears: noise, people, machines, money, terms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from cluster.measured import STUDENT, STUDENT_INT8, TEACHER
from jobs.before import licences
from jobs.measure import cost, edge, fairness, money, robustness
from jobs.measure.beyond.setting import NotMeasured, Setting, asker
from serving.bundle import predict


def robustness_part(setting: Setting) -> dict[str, Any]:
    """Noise at three severities, and swapped keywords, where the recipe has any."""
    setting.answers_only()
    recipe, section = setting.recipe, setting.recipe.evaluate.robustness
    if section is None:
        raise NotMeasured("evaluate.robustness is null")
    asks = {STUDENT_INT8: asker(predict.load(setting.bundle))}
    if (setting.bundle / "teacher").is_dir():
        asks[TEACHER] = asker(predict.load(setting.bundle / "teacher"))
    requests = robustness.sampled(setting.requests("test"), section.rows, recipe.seed)
    found = robustness.measure(robustness.Sample(requests, asks, recipe.evaluate.bootstrap, recipe.seed))
    pairs: Any = section.swaps or recipe.generate.views.get("pairs") or {}
    swapped = robustness.swaps(setting.rows, asks, pairs, section.rows)
    if swapped is None:
        why = "no test row holds a keyword of evaluate.robustness.swaps, or the teacher's network is not here"
        setting.report["not_measured"]["swaps"] = why
    return {**found, "swaps": swapped}


def fairness_part(setting: Setting) -> dict[str, Any]:
    """The gap between identities that the recipe's sentences name."""
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


def cost_part(setting: Setting) -> dict[str, Any]:
    """Memory, load time, operations and rates of every engine in the bundle and beside it."""
    measured = {**(setting.report["engines"] or {}), **setting.report["models"]}
    timed = {name: own["latency_ms"] for name, own in measured.items()}
    return cost.measure(setting.bundle, _few(setting), timed, setting.others)


def edge_part(setting: Setting) -> list[dict[str, Any]]:
    """Whether the bundle fits the recipe's devices."""
    section, items = setting.recipe.evaluate, _few(setting)
    served = setting.report["cost"]["engines"][STUDENT_INT8]
    devices = edge.profiles(section.edge, section.edge_profiles)
    return edge.measure(devices, setting.bundle, items, served["file_bytes"], served["activation_peak_bytes"])


def money_part(setting: Setting) -> dict[str, Any]:
    """Prices of a thousand answers, and the volume that pays for the student."""
    prices = setting.recipe.evaluate.prices
    if prices is None:
        raise NotMeasured("evaluate.prices is null")
    _few(setting)
    engines = setting.report["cost"]["engines"]
    seconds = {name: engines[own]["cpu_ms"] / 1000 if own in engines else None
               for name, own in ((TEACHER, TEACHER), (STUDENT, STUDENT_INT8))}  # fmt: skip
    hours = sum(artifact.manifest.seconds for kind, artifact in setting.artifacts.items() if kind != "control") / 3600
    labelled = pq.read_metadata(setting.folders["samples"] / "samples.parquet").num_rows
    limit = setting.recipe.serving.confidence_min
    deferred = np.mean([answer.confidence < limit for answer in setting.asked[STUDENT_INT8].answers])
    return money.measure(prices, seconds, hours, labelled, float(deferred))


def licences_part(setting: Setting) -> dict[str, Any]:
    """What is known of terms; `allows` is None where that of any teacher is not known."""
    judged = licences.judge(setting.recipe)
    allows = [one.allows for one in judged]
    verdict = False if False in allows else None if None in allows else True
    return {"allows": verdict, **licences.facts(setting.recipe)}
