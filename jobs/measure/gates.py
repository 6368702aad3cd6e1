"""Holds a report to the recipe's limits: every gate with its value, and the error that names the ones not passed."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cluster.errors import GateFailed
from cluster.recipe import Gates

Report = Mapping[str, Any]
RULES: Mapping[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}

# Field of `Gates` -> how the value stands to the limit, and where the report holds it.
CHECKS: Mapping[str, tuple[str, Callable[[Report], float | None]]] = {
    "latency_p95_ms": ("<", lambda report: report["models"]["student_int8"]["latency_ms"]["p95"]),
    "retention_min": (">=", lambda report: report["retention"]["value"]),
    "int8_drop_max": ("<", lambda report: report["int8"]["task_drop"]),
    "int8_agreement_min": (">=", lambda report: report["int8"]["agreement"]),
    "logit_error_max": ("<", lambda report: report["int8"]["logit_error"]),
    "kv_share_max": ("<=", lambda report: report["kv_share"]),
    "param_share_max": ("<=", lambda report: report["param_share"]),
    "speedup_min": (">=", lambda report: report["speedup"]),
    "teacher_metric_min": (">=", lambda report: report["models"]["teacher"]["metrics"][report["primary_metric"]]),
    "above_control": (">", lambda report: report["control_gain"] and report["control_gain"]["value"]),
    "bytes_max": ("<=", lambda report: report["models"]["student_int8"]["bytes"]),
}


def judge(report: Report, gates: Gates, control: bool) -> list[dict[str, Any]]:
    """Per gate that is on: name, rule, limit, value and whether it is passed (point values; without a value it is not).

    Without a control arm (`control` false) there is nothing to be above, and that gate is left out.
    """
    judged = []
    for name, (rule, measure) in CHECKS.items():
        limit = getattr(gates, name)
        if limit is None or (name == "above_control" and not control):
            continue
        value = measure(report)
        passed = value is not None and RULES[rule](value, limit)
        judged.append({"name": name, "rule": rule, "limit": limit, "value": value, "passed": passed})
    return judged


def failed(judged: Sequence[Mapping[str, Any]]) -> list[tuple[str, float | None, float]]:
    """Name, value and limit of the gates that are not passed."""
    return [(gate["name"], gate["value"], gate["limit"]) for gate in judged if not gate["passed"]]


def refuse_failed(judged: Sequence[Mapping[str, Any]]) -> None:
    """Raise GateFailed (exit code 3) naming every gate that is not passed."""
    if failures := failed(judged):
        raise GateFailed(failures)
