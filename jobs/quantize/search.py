"""Finds the smallest file that is still good enough: schemes first, then the layers that cost most, then float32.

Measured on this project's models the scheme is the strong lever and leaving out layers the weak one (error is spread),
so every scheme is tried before any layer is left out. The limits are those of the gates, so what is chosen here on
validation rows is judged by the same numbers on the test split.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from cluster.recipe import Gates
from jobs.measure.metrics import logit_error
from jobs.quantize.exam import Taken
from jobs.quantize.plan import Plan

LEFT_OUT = (1, 2, 4, 8, 16)  # how many of the most sensitive layers stay float, one try after the other


@dataclass(frozen=True)
class Point:
    """One try: what it cost against the float32 student, and which limits it broke (empty: it holds)."""

    name: str
    scheme: str
    bytes: int
    metric: float
    drop: float | None
    agreement: float
    logit_error: float
    broke: tuple[str, ...]


@dataclass(frozen=True)
class Found:
    """The plan that was chosen, every try in order, and per layer the error of quantizing it alone (where asked)."""

    plan: Plan
    curve: Sequence[Point]
    sensitivity: Mapping[str, float]


def judged(plan: Plan, size: int, own: Taken, plain: Taken, limits: Gates) -> Point:
    """The point of a quantized student whose graphs are `size` bytes, against the float32 student's exam."""
    drop = (plain.metric - own.metric) / plain.metric if plain.metric else None
    agreement = float(np.mean([one == other for one, other in zip(own.said, plain.said, strict=True)]))
    error = logit_error(plain.logits, own.logits)
    broke = [
        name
        for name, bad in (
            ("int8_drop_max", limits.int8_drop_max is not None and drop is not None and drop >= limits.int8_drop_max),
            ("int8_agreement_min", limits.int8_agreement_min is not None and agreement < limits.int8_agreement_min),
            ("logit_error_max", limits.logit_error_max is not None and error >= limits.logit_error_max),
        )
        if bad
    ]
    return Point(plan.name, plan.scheme, size, own.metric, drop, agreement, error, tuple(broke))


def walk(plans: Sequence[Plan], tried: Callable[[Plan], Point], cost: Callable[[Plan], Mapping[str, float]]) -> Found:
    """The first plan that breaks no limit.

    `tried` makes and judges a plan, `cost` tells per layer the error of quantizing that layer alone; it is asked only
    when no scheme holds. Then the best scheme is tried without its worst 1, 2, 4, .. layers, and float32 is what is
    left.
    """
    curve: list[Point] = []
    points: list[tuple[Point, Plan]] = []
    for plan in plans:
        points.append((tried(plan), plan))
        curve.append(points[-1][0])
        if not curve[-1].broke:
            return Found(plan, curve, {})
    _, best = max(points, key=lambda pair: (pair[0].agreement, -pair[0].logit_error))
    sensitivity = cost(best)
    order = sorted(sensitivity, key=lambda layer: -sensitivity[layer])
    for count in LEFT_OUT:
        if count >= len(order):
            break
        plan = best.but(order[:count])
        curve.append(tried(plan))
        if not curve[-1].broke:
            return Found(plan, curve, sensitivity)
    plan = Plan("float32")
    return Found(plan, [*curve, tried(plan)], sensitivity)


def facts(found: Found, asked: Any, limits: Gates, about: Mapping[str, Any]) -> dict[str, Any]:
    """`quantization` of the export artifact: what was asked, chosen and tried, ready for JSON."""
    held = {name: getattr(limits, name) for name in ("int8_drop_max", "int8_agreement_min", "logit_error_max")}
    return {
        "asked": asked,
        "chosen": found.plan.name,
        "excluded": list(found.plan.exclude),
        "limits": held,
        "curve": [{**asdict(point), "broke": list(point.broke)} for point in found.curve],
        "sensitivity": [{"layer": layer, "logit_error": error} for layer, error in found.sensitivity.items()],
        **about,
    }
