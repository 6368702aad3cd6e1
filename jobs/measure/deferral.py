"""How sure the exported student must be to be trusted without its teacher, found on validation rows (never on test)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from cluster.errors import RecipeError, StepFailed
from cluster.recipe import Recipe
from jobs import tasks
from jobs.data.items import COLUMNS, item_of
from serving import teachers
from serving.bundle.predict import Answerer
from serving.fallback.threshold import calibrate

ROWS = 4000  # validation rows that are asked at most: 1,000 tell 95 % from 93 % (count)


def check(recipe: Recipe) -> None:
    """Refuse a target that the task's answers cannot be held to. Raises RecipeError."""
    if recipe.serving.agreement_min is not None and recipe.task == "text_generation":
        what = "serving.agreement_min: two texts are hardly ever the same words, so a share of agreement says nothing"
        raise RecipeError(what, got=recipe.serving.agreement_min, expected="null")


def thresholds(recipe: Recipe, student: Answerer, teacher: Path) -> dict[str, Any]:
    """What `bundle.json` gets: `{"threshold": ...}` (`threshold.Threshold`), {} where the recipe has no target.

    `teacher` is the folder that answers. Raises StepFailed when no threshold keeps the promise on these rows.
    """
    target = recipe.serving.agreement_min
    if target is None:
        return {}
    rows: list[Mapping[str, Any]] = tasks.of(recipe).requests("validation").select([*COLUMNS]).to_pylist()
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(ROWS, len(rows))).astype(int))
    items = [item_of(rows[row]) for row in chosen]
    taught = [answer.text for answer in teachers.open_folder(teacher).answer(items)]
    own = student.predict(items)
    agrees = [answer.text == text for answer, text in zip(own, taught, strict=True)]
    found = calibrate([answer.confidence for answer in own], agrees, target)
    if found is None:
        seen = f"{np.mean(agrees):.1%} of {len(items)} validation rows agree at any confidence"
        what = f"no threshold of confidence lets the student agree with its teacher {target:.1%} of the time ({seen})"
        raise StepFailed("export", what, hint="lower serving.agreement_min, or give more validation rows")
    return {"threshold": asdict(found)}
