"""What a student that was continued has forgotten: the exam of the run it comes from, before and after."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from cluster.recipe import Recipe
from cluster.store import Store
from jobs import tasks
from jobs.before import continued
from jobs.measure import bootstrap, exam, metrics
from serving.bundle import predict


def measure(recipe: Recipe, store: Store, bundle: Path) -> dict[str, Any]:
    """`forgetting` of the report: the earlier run's test rows answered by its INT8 bundle and by the new one, and the
    difference (after minus before, below 0: forgotten) with its 95 % interval; empty for a run that continues none."""
    earlier = continued.find(recipe, store)
    if earlier is None:
        return {}
    old = earlier.recipe
    rows = exam.of(tasks.of(old).requests("test"), old.evaluate.max_rows, old.seed)
    right = {}
    for name, folder in (("before", earlier.artifacts["bundle"].path()), ("after", bundle)):
        engine = predict.load(folder)
        right[name] = metrics.right(rows, [engine.predict([item])[0].text for item in rows.items])
    told = {name: float(np.mean(values)) for name, values in right.items()}
    change = bootstrap.difference(right["after"], right["before"], recipe.evaluate.bootstrap, recipe.seed)
    return {"forgetting": {"run": earlier.run, "metric": metrics.PRIMARY[old.task], "rows": len(rows), **told,
                           "change": change}}  # fmt: skip
