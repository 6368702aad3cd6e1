"""Everything that the report says beyond the score: where the student is good, how sure it is, what it bears and costs.

One entry of `PARTS` is one key of the report, measured in this order, each with its time. A part that has nothing to
measure raises `NotMeasured`, and its reason stands in the report instead of a number.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from jobs.measure.beyond import answers, keys, limits
from jobs.measure.beyond.setting import NotMeasured, Setting

__all__ = ["PARTS", "NotMeasured", "Setting", "measure"]

PARTS: Mapping[str, Callable[[Setting], Any]] = {
    "intervals": answers.intervals_part,
    "per_class": answers.per_class_part,
    "slices": answers.slices_part,
    "calibration": answers.calibration_part,
    "written": answers.written_part,
    "golden": keys.golden_part,
    "transfer": answers.transfer_part,
    "robustness": limits.robustness_part,
    "fairness": limits.fairness_part,
    "cost": limits.cost_part,
    "edge": limits.edge_part,
    "money": limits.money_part,
    "licences": limits.licences_part,
}


def measure(setting: Setting) -> None:
    """Put every part into `setting.report`, with `not_measured` (why, by part) and `evaluate_seconds` (by part)."""
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
