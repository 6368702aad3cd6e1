"""Drops rows with structured personal data (`cluster.pii`).

In curation a row is dropped, not masked: a masked prompt is no longer what the teacher answered.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from cluster.pii import KINDS, Kind, find
from cluster.recipe.base import Section
from jobs.data.filters.rows import Rows, Verdicts


class Params(Section):
    """What is looked for, and where."""

    kinds: list[Kind] = Field(KINDS, min_length=1, description="kinds of personal data that a row may not hold")
    columns: list[Literal["prompt", "response"]] = Field(
        ["prompt", "response"], min_length=1, description="texts looked at"
    )


def pii(rows: Rows, params: Params) -> Verdicts:
    """ "pii_KIND" of the first span in a row; the score is the number of spans."""
    texts = [rows.samples[column].to_pylist() for column in params.columns]
    spans = [[span for text in row if text for span in find(text, params.kinds)] for row in zip(*texts, strict=True)]
    reasons = [f"pii_{found[0].kind}" if found else None for found in spans]
    return Verdicts(reasons, np.array([len(found) for found in spans], np.float64))
