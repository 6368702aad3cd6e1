"""What a thousand answers cost, by whom they are given, and from how many on the student has paid for itself."""

from __future__ import annotations

import math
from typing import Any

from cluster.recipe.measures import PricesSection


def measure(
    prices: PricesSection, seconds: dict[str, float | None], hours: float, labelled: int, deferral_share: float
) -> dict[str, Any]:
    """`per_1000` of teacher, student, and student with `deferral_share` of requests handed on; what distilling cost
    (`hours` of the training machine and, where it is paid by the answer, the teacher's `labelled` ones); and
    `break_even_requests`, rounded up, or None where a request saves nothing or the teacher's price is not known.

    `seconds` are busy seconds of one CPU per request of "teacher" (None: not timed here) and "student".
    """
    student = _hourly(prices.machine_hour, prices, seconds["student"])
    teacher = _teacher(prices, seconds["teacher"])
    mixed = None if student is None or teacher is None else student + deferral_share * teacher
    paid_by_answer = teacher if prices.teacher_request is not None or prices.teacher_tokens_m is not None else None
    rate = prices.machine_hour if prices.training_hour is None else prices.training_hour
    cost = hours * rate + labelled * (paid_by_answer or 0.0)
    saved = None if mixed is None or teacher is None else teacher - mixed
    return {
        "currency": prices.currency,
        "per_1000": {name: None if one is None else 1000 * one for name, one in
                     (("teacher", teacher), ("student", student), ("student_with_deferrals", mixed))},
        "deferral_share": deferral_share,
        "distillation": {"hours": hours, "labelled": labelled, "cost": cost},
        "break_even_requests": math.ceil(cost / saved) if saved is not None and saved > 0 else None,
        "prices": prices.model_dump(mode="json"),
    }  # fmt: skip


def _hourly(hour: float, prices: PricesSection, seconds: float | None) -> float | None:
    """Currency per request of a machine that is kept busy."""
    return None if seconds is None else hour / 3600 * seconds / prices.machine_cpus


def _teacher(prices: PricesSection, seconds: float | None) -> float | None:
    if prices.teacher_request is not None:
        return prices.teacher_request
    if prices.teacher_tokens_m is not None:
        return prices.teacher_tokens_m / 1e6 * prices.tokens_per_request
    return _hourly(prices.machine_hour if prices.teacher_hour is None else prices.teacher_hour, prices, seconds)
