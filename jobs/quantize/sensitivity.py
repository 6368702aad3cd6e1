"""What each layer costs: the relative logit error of a student in which that layer alone is quantized."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from jobs.measure.metrics import logit_error
from jobs.quantize import graph
from jobs.quantize.plan import Plan

ROWS = 64  # requests that a layer is tried on


def layers(source: Path) -> list[str]:
    """Every layer of a float32 bundle that can be quantized, as `Plan.exclude` names it."""
    found = []
    with tempfile.TemporaryDirectory() as aside:
        for path in sorted(source.glob("*.onnx")):
            model = graph.folded(path, Path(aside) / path.name)
            found += [f"{path.stem}:{name}" for name in graph.layers(model)]
    return found


def measured(
    source: Path, plan: Plan, make: Callable[[Plan, Path], Any], items: Sequence[Mapping[str, Any]]
) -> dict[str, float]:
    """Relative logit error by layer (share), under a plan's scheme; `make` writes a plan into a folder and opens it.

    Tables of embeddings are quantized every time, so their error is in every number alike.
    """
    plain = _logits(make, Plan("float32"), items)
    return {layer: logit_error(plain, _logits(make, replace(plan, only=(layer,)), items)) for layer in layers(source)}


def _logits(make: Callable[[Plan, Path], Any], plan: Plan, items: Sequence[Mapping[str, Any]]) -> list[Any]:
    with tempfile.TemporaryDirectory() as folder:
        student = make(plan, Path(folder))
        return [student.logits([item])[0] for item in items]
