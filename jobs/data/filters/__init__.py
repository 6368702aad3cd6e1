"""Curation filters by name: each keeps a row or says why not; a new filter is one file and one line here.

A filter is a function of (rows, params) -> one reason or None per row, over the rows that earlier filters kept. A gate
judges the whole kept set and gives one number; the step fails below its limit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from cluster.errors import RecipeError
from cluster.recipe import Term
from cluster.recipe.base import Section
from jobs.data.filters import agreement, confidence, diversity, duplicate


@dataclass(frozen=True)
class Rows:
    """What a filter may read: the samples still kept, and each row's unit embedding float32 [R, E]."""

    samples: pa.Table
    embeddings: np.ndarray


@dataclass(frozen=True)
class Filter:
    """A row filter: its function and its parameter model."""

    function: Callable[[Rows, Any], Sequence[str | None]]
    params: type[Section]


@dataclass(frozen=True)
class Gate:
    """A set-level gate: `function` gives the set's value, which must exceed the params' `minimum`."""

    function: Callable[[Rows, Any], float]
    params: type[Section]


FILTERS: dict[str, Filter | Gate] = {
    "duplicate": Filter(duplicate.duplicate, duplicate.Params),
    "confidence": Filter(confidence.confidence, confidence.Params),
    "agreement": Filter(agreement.agreement, agreement.Params),
    "diversity": Gate(diversity.diversity, diversity.Params),
}


def check(terms: Sequence[Term]) -> None:
    """Refuse unknown filters and parameters before anything is started. Raises RecipeError naming the filter."""
    for index, term in enumerate(terms):
        if term.name not in FILTERS:
            raise RecipeError(f"curate.filters.{index}: unknown filter", got=term.name, expected=", ".join(FILTERS))
        FILTERS[term.name].params.parse(term.params, at=f"curate.filters.{index}.params")
