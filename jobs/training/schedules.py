"""The value that a changing number has at one step: a pure function of (recipe, step), so a resumed run has the same.

What early distillation and a late task mean is written as two weights that cross, a temperature that falls or rises as
a `{kind, from, to}` in a loss's params.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pydantic import JsonValue

from cluster.recipe.training import Ramp


def ramp_at(ramp: Ramp, step: int, steps: int, metric: float = 0.0) -> float:
    """Value at `step` of `steps`: `from` at the first, `to` at the last, of a single step `from`.

    Of kind validation by the primary `metric` on validation rows alone, when it was last measured (0 to 1).
    """
    start, end = ramp.ends
    done = min(max(metric, 0.0), 1.0) if ramp.kind == "validation" else step / max(1, steps - 1)
    if ramp.kind == "exponential":
        return math.pow(start, 1 - done) * math.pow(end, done)
    if ramp.kind == "cosine":
        done = (1 - math.cos(math.pi * done)) / 2
    return start * (1 - done) + end * done  # exact at both ends, which were checked


def value_at(value: float | Ramp, step: int, steps: int, metric: float = 0.0) -> float:
    """A fixed number, or the ramp's value at `step` of `steps`."""
    return ramp_at(value, step, steps, metric) if isinstance(value, Ramp) else value


def is_ramp(value: JsonValue) -> bool:
    """Whether a raw param is a change over the stage; no loss has a param that is a dict of its own."""
    return isinstance(value, dict)


def params_at(
    params: Mapping[str, JsonValue], step: int, steps: int, at: str = "params", metric: float = 0.0
) -> dict[str, Any]:
    """Raw params of a term with every change replaced by its value at `step` of `steps`.

    Raises RecipeError naming the path below `at` for a change that cannot be read.
    """
    return {
        name: ramp_at(Ramp.parse(value, at=f"{at}.{name}"), step, steps, metric) if is_ramp(value) else value
        for name, value in params.items()
    }
