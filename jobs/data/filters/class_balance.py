"""Caps what there is too much of: no class has more than a multiple of the median class, or of a number of rows."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from cluster.recipe.base import Section
from jobs.data.filters.rows import Rows, Verdicts


class Params(Section):
    """The cap."""

    by: Literal["response", "label_name", "slice"] = Field("response", description="column that names a row's class")
    ratio: float = Field(2.0, gt=0, description="largest class over the median class, or over `target` (ratio)")
    target: int | None = Field(None, ge=1, description="rows that `ratio` is a multiple of; null: the median class's")


def class_balance(rows: Rows, params: Params) -> Verdicts:
    """ "class_too_large" for the rows beyond the cap, the least confident first, equal ones in seeded order; the score
    is the row's place in its class (1 is the surest). Rows of no class pass."""
    classes = rows.samples[params.by].to_pylist()
    names = sorted({name for name in classes if name is not None})
    reasons: list[str | None] = [None] * len(classes)
    scores = np.full(len(classes), np.nan)
    if not names:
        return Verdicts(reasons, scores)
    number = {name: index for index, name in enumerate(names)}
    class_R = np.array([-1 if name is None else number[name] for name in classes])
    counts = np.bincount(class_R[class_R >= 0])
    cap = max(1, int(params.ratio * (params.target if params.target is not None else float(np.median(counts)))))
    sure = np.nan_to_num(rows.samples["confidence"].to_numpy().astype(np.float64), nan=-1.0)
    chance = np.random.default_rng([rows.seed, len(classes)]).random(len(classes))
    for index in range(len(names)):
        own = np.flatnonzero(class_R == index)
        ordered = own[np.lexsort((chance[own], -sure[own]))]
        scores[ordered] = np.arange(1, len(own) + 1)
        for row in ordered[cap:].tolist():
            reasons[row] = "class_too_large"
    return Verdicts(reasons, scores)
