"""Set-level diversity: 1 - mean pairwise cosine of unit embeddings over the whole kept set (DESIGN, decision 5)."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from cluster.recipe.base import Section
from jobs.data.filters.rows import Rows


class Params(Section):
    """The gate's limit."""

    minimum: float = Field(0.7, ge=0, le=1, description="least diversity of the set (0 = all alike, 1 = unrelated)")


def diversity(rows: Rows, params: Params) -> float:
    """The diversity of the rows' embeddings, see `spread`."""
    return spread(rows.embeddings)


def spread(unit_RE: np.ndarray) -> float:
    """1 - mean cosine over all pairs of different rows, from the norm of the sum: |sum|^2 = R + sum of all cosines.
    0 for fewer than two rows."""
    count = len(unit_RE)
    if count < 2:
        return 0.0
    total = float((unit_RE.sum(0) ** 2).sum())
    return 1.0 - (total - count) / (count * (count - 1))
