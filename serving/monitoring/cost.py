"""What 1,000 requests cost as they are served, and what they would cost if the teacher answered them all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cluster.recipe.experiment import ExperimentSection
from serving.experiments.arms import ArmStats

HOUR_MS = 3_600_000.0


def per_1000(stats: Mapping[str, ArmStats], section: ExperimentSection) -> dict[str, Any]:
    """`served` and `teacher` per 1,000 requests, and their `ratio`; `unit` is "money" where prices are given, else
    "s" of answering. None where nothing was asked yet.

    A student's answer costs the time of its request, a deferred one a teacher's answer on top; the teacher's time is
    that of its shadows. Shadows themselves are not counted: they are the price of knowing.
    """
    requests = sum(one.requests for one in stats.values())
    calls = sum(one.teacher_calls for one in stats.values())
    money = section.price_per_hour > 0
    per_ms = section.price_per_hour / HOUR_MS if money else 1e-3
    teacher = sum(one.teacher_ms for one in stats.values()) / calls * 1000 * per_ms if calls else None
    if money and section.teacher_price_per_1000:
        teacher = section.teacher_price_per_1000
    served = None
    if requests and teacher is not None:
        deferred = sum(one.deferred for one in stats.values()) / requests
        own_ms = sum(one.latency_sum_ms for one in stats.values()) / requests
        served = own_ms * 1000 * per_ms + (deferred * teacher if money and section.teacher_price_per_1000 else 0.0)
    ratio = served / teacher if served is not None and teacher else None
    return {"unit": "money" if money else "s", "served": served, "teacher": teacher, "ratio": ratio}
