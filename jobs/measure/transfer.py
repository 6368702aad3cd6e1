"""How much of the teacher's knowledge has moved: layers that look alike, and answers that agree where it was sure.

Shape legend: Q scored positions, W and H widths of two layers, R rows.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cluster.recipe import Recipe
from jobs import tasks
from jobs.training import distiller, table

Array = np.ndarray[Any, Any]
EDGES = (0.0, 0.5, 0.8, 0.9, 0.95, 0.99, 1.0)  # of the teacher's confidence
BATCH = 32


def cka(one_QW: Array, other_QH: Array) -> float:
    """Linear centred kernel alignment, 0 to 1: |Y'X|^2 / (|X'X| |Y'Y|) of centred features (arXiv 1905.00414,
    equations 2 and 3). Blind to rotation and to isotropic scale; 0 where either is constant."""
    x_QW, y_QH = (side.astype(np.float64) - side.mean(0, dtype=np.float64) for side in (one_QW, other_QH))
    below = np.linalg.norm(x_QW.T @ x_QW) * np.linalg.norm(y_QH.T @ y_QH)
    return float(np.linalg.norm(y_QH.T @ x_QW) ** 2 / below) if below else 0.0


def layers(recipe: Recipe, models: Mapping[str, Path], rows: int) -> dict[str, Any] | None:
    """`cka` of every layer of the student with every layer of the teacher on validation rows: `matrix` (a line per
    layer of the student) and `pairs`, for each of its layers the teacher's that it is most alike (numbered from 1).

    None where the teacher's network is not here, or the task does not show its layers.
    """
    task = tasks.of(recipe)
    if not isinstance(task, tasks.Layered) or not all((models[side] / "config.json").is_file() for side in models):
        return None
    seen = {side: _states(recipe, models[side], rows) for side in ("teacher", "student")}
    matrix = [[cka(own, theirs) for theirs in seen["teacher"]] for own in seen["student"]]
    best = [int(np.argmax(line)) for line in matrix]
    pairs = [{"student": own + 1, "teacher": place + 1, "cka": matrix[own][place]} for own, place in enumerate(best)]
    return {"rows": rows, "teacher_layers": len(seen["teacher"]), "student_layers": len(matrix), "matrix": matrix,
            "pairs": pairs}  # fmt: skip


def _states(recipe: Recipe, model: Path, rows: int) -> list[Array]:
    """Per layer its features float32 [Q, W] at the scored positions of the first validation rows; a map's mean."""
    import torch

    task = tasks.of(recipe)  # one of its own: a task remembers the shapes of the folder that it opened last
    network = task.load(str(model)).eval()
    columns = task.validation_columns()
    assert isinstance(task, tasks.Layered)
    numbers = tuple(range(1, len(task.blocks(network)) + 1))
    found: list[list[Array]] = [[] for _ in numbers]
    count = min(rows, table.rows(columns))
    with torch.no_grad():
        for start in range(0, count, BATCH):
            batch = task.batch(columns, np.arange(start, min(start + BATCH, count)))
            seen = distiller.look(task, network, batch, distiller.View(numbers))["layers"]
            for kept, own in zip(found, seen, strict=True):
                state = own["features"]
                kept.append((state.mean((2, 3)) if state.dim() == 4 else state).float().numpy())
    del network
    gc.collect()
    return [np.concatenate(own) for own in found]


def by_confidence(
    confidence_R: Array, right_R: Array, teacher: Sequence[str], students: Mapping[str, Sequence[str]]
) -> list[dict[str, Any]]:
    """Per bin of the teacher's confidence that holds rows: how often it is right, and how often each student says what
    it says. Knowledge that has moved agrees where the teacher was sure."""
    place_R = np.clip(np.searchsorted(EDGES, confidence_R, side="right") - 1, 0, len(EDGES) - 2)
    same = {name: np.array([a == b for a, b in zip(own, teacher, strict=True)]) for name, own in students.items()}
    return [
        {"low": EDGES[place], "high": EDGES[place + 1], "rows": int((place_R == place).sum()),
         "teacher_right": float(right_R[place_R == place].mean()),
         **{name: float(same_R[place_R == place].mean()) for name, same_R in same.items()}}
        for place in np.unique(place_R).tolist()
    ]  # fmt: skip


def shared(truth: Sequence[str], teacher: Sequence[str], student: Sequence[str]) -> dict[str, float | None]:
    """`of_teacher_right`: share of what the teacher gets right that the student gets right too; `of_teacher_wrong`:
    share of the teacher's mistakes that the student makes in the same words. None where there are no such rows."""
    right_R = np.array([a == b for a, b in zip(teacher, truth, strict=True)])
    same_R = np.array([a == b for a, b in zip(student, teacher, strict=True)])
    parts = {"of_teacher_right": right_R, "of_teacher_wrong": ~right_R}
    return {name: float(same_R[own].mean()) if own.any() else None for name, own in parts.items()}
