"""Keeps rows the teacher was sure of: largest class probability, or exp(mean token log-probability) for text."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from cluster.recipe.base import Section
from jobs.data.filters.rows import Rows, Verdicts


class Params(Section):
    """The cut, absolute or as a percentile of the set (DESIGN, decision 5)."""

    minimum: float = Field(0.85, ge=0, le=1, description="least confidence, or the share of rows to drop (0 to 1)")
    mode: Literal["absolute", "percentile"] = Field("absolute", description="how `minimum` is read")


def absolute(params: Params) -> bool:
    """Whether a row's verdict is its own: a percentile is the whole set's."""
    return params.mode == "absolute"


def confidence(rows: Rows, params: Params) -> Verdicts:
    """ "low_confidence" for rows at or below the cut, "no_confidence" where the teacher told no probability; the score
    is the confidence."""
    values = rows.samples["confidence"].to_numpy()
    known = values[~np.isnan(values)]
    cut = params.minimum
    if params.mode == "percentile" and len(known):
        cut = float(np.quantile(known, params.minimum))
    reasons = ["no_confidence" if value != value else "low_confidence" if value <= cut else None for value in values]
    return Verdicts(reasons, values.astype(np.float64))
