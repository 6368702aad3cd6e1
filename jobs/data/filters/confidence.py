"""Keeps rows the teacher was sure of: largest class probability, or exp(mean token log-probability) for text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from cluster.recipe.base import Section

if TYPE_CHECKING:
    from jobs.data.filters import Rows


class Params(Section):
    """The cut, absolute or as a percentile of the set (DESIGN, decision 5)."""

    minimum: float = Field(0.85, ge=0, le=1, description="least confidence, or the share of rows to drop (0 to 1)")
    mode: Literal["absolute", "percentile"] = Field("absolute", description="how `minimum` is read")


def confidence(rows: Rows, params: Params) -> Sequence[str | None]:
    """ "low_confidence" for rows at or below the cut."""
    values = rows.samples["confidence"].to_numpy()
    cut = params.minimum if params.mode == "absolute" else float(np.quantile(values, params.minimum))
    return ["low_confidence" if value <= cut else None for value in values]
