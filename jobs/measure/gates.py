"""Holds a report to the recipe's limits: every gate with its value, and the error that names the ones not passed."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cluster.errors import GateFailed
from cluster.measured import STUDENT_INT8, TEACHER
from cluster.recipe import Gates

Report = Mapping[str, Any]
RULES: Mapping[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "is": operator.is_,
}

# Field of `Gates` -> how the value stands to the limit, and where the report holds it.
CHECKS: Mapping[str, tuple[str, Callable[[Report], float | None]]] = {
    "latency_p95_ms": ("<", lambda report: report["models"][STUDENT_INT8]["latency_ms"]["p95"]),
    "retention_min": (">=", lambda report: report["retention"]["value"]),
    "int8_drop_max": ("<", lambda report: report["int8"]["task_drop"]),
    "int8_agreement_min": (">=", lambda report: report["int8"]["agreement"]),
    "logit_error_max": ("<", lambda report: report["int8"]["logit_error"]),
    "kv_share_max": ("<=", lambda report: report["kv_share"]),
    "param_share_max": ("<=", lambda report: report["param_share"]),
    "speedup_min": (">=", lambda report: report["speedup"]),
    "teacher_metric_min": (">=", lambda report: report["models"][TEACHER]["metrics"][report["primary_metric"]]),
    "above_control": (">", lambda report: report["control_gain"] and report["control_gain"]["value"]),
    "bytes_max": ("<=", lambda report: report["models"][STUDENT_INT8]["bytes"]),
    "memory_max_bytes": (
        "<", lambda report: report["cost"] and report["cost"]["engines"][STUDENT_INT8]["rss_peak_bytes"]
    ),
    "golden_agreement_min": (">=", lambda report: report["golden"] and report["golden"]["with_float"]),
    "fairness_gap_max": ("<=", lambda report: report["fairness"] and report["fairness"]["gap"]),
    "licence_allows": ("is", lambda report: report["licences"]["allows"]),
}  # fmt: skip

# Gates about what a recipe may not ask to measure: without a value they are left out and said to be, never passed.
OPTIONAL: Mapping[str, str] = {
    "above_control": "there is no control arm (distill.control)",
    "memory_max_bytes": "no fresh process was run (evaluate.fresh_requests)",
    "golden_agreement_min": "there are no golden samples",
    "fairness_gap_max": "there are no identity slices (evaluate.fairness)",
    "licence_allows": "the terms of the teacher are not known (teacher.licence, teacher.terms)",
}


def judge(report: Report, gates: Gates, control: bool) -> list[dict[str, Any]]:
    """Per gate that is on: name, rule, limit, value and whether it is passed (point values; without a value it is not).

    Left out are `left_out`'s gates: what is not measured is neither passed nor failed.
    """
    judged, skipped = [], left_out(report, gates, control)
    for name, (rule, measure) in CHECKS.items():
        limit = getattr(gates, name)
        if limit is None or name in skipped:
            continue
        value = measure(report)
        passed = value is not None and RULES[rule](value, limit)
        judged.append({"name": name, "rule": rule, "limit": limit, "value": value, "passed": passed})
    return judged


def left_out(report: Report, gates: Gates, control: bool) -> dict[str, str]:
    """Name -> why of the gates that are on and that this recipe measures nothing for: it asks for no fairness audit,
    has no control arm (`control` false), ..."""
    absent = {name for name in OPTIONAL if name != "above_control" and CHECKS[name][1](report) is None}
    absent |= set() if control else {"above_control"}
    return {name: why for name, why in OPTIONAL.items() if name in absent and getattr(gates, name) is not None}


def failed(judged: Sequence[Mapping[str, Any]]) -> list[tuple[str, float | None, float]]:
    """Name, value and limit of the gates that are not passed."""
    return [(gate["name"], gate["value"], gate["limit"]) for gate in judged if not gate["passed"]]


def refuse_failed(judged: Sequence[Mapping[str, Any]]) -> None:
    """Raise GateFailed (exit code 3) naming every gate that is not passed."""
    if failures := failed(judged):
        raise GateFailed(failures)
