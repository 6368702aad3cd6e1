"""Curation filters by name: each keeps a row or says why not; a new filter is one file and one line here.

A filter is a function of (rows, params) -> reason or None, score and twin per row, over the rows that earlier filters
kept. A gate judges the whole kept set and gives one number; the step fails below its limit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.errors import RecipeError
from cluster.recipe import Recipe, Term
from cluster.recipe.base import Section
from jobs.data.filters import (
    agreement,
    class_balance,
    confidence,
    consistency,
    contradiction,
    decontaminate,
    diversity,
    duplicate,
    image_text,
    judge,
    near_duplicate,
    pii,
    schema_length,
    semantic_duplicate,
    wrong_label,
)
from jobs.data.filters.rows import Rows, Verdicts

__all__ = ["FILTERS", "Filter", "Gate", "Rows", "Verdicts", "check"]


@dataclass(frozen=True)
class Filter:
    """A row filter: its function, its parameter model, what it refuses of a recipe (raises RecipeError), whether it
    asks a model that may cost money, and with which parameters it judges a row without looking at other samples."""

    function: Callable[[Rows, Any], Verdicts]
    params: type[Section]
    check: Callable[[Any, Recipe], None] | None = None
    paid: bool = False
    alone: Callable[[Any], bool] = lambda params: False


@dataclass(frozen=True)
class Gate:
    """A set-level gate: `function` gives the set's value, which must exceed the params' `minimum`."""

    function: Callable[[Rows, Any], float]
    params: type[Section]


def _always(params: Any) -> bool:
    return True


FILTERS: dict[str, Filter | Gate] = {
    "schema_length": Filter(schema_length.schema_length, schema_length.Params, alone=_always),
    "pii": Filter(pii.pii, pii.Params, alone=_always),
    "consistency": Filter(consistency.consistency, consistency.Params, consistency.check, alone=_always),
    "decontaminate": Filter(decontaminate.decontaminate, decontaminate.Params, alone=_always),
    "contradiction": Filter(contradiction.contradiction, contradiction.Params),
    "duplicate": Filter(duplicate.duplicate, duplicate.Params),
    "near_duplicate": Filter(near_duplicate.near_duplicate, near_duplicate.Params),
    "semantic_duplicate": Filter(semantic_duplicate.semantic_duplicate, semantic_duplicate.Params),
    "confidence": Filter(confidence.confidence, confidence.Params, alone=confidence.absolute),
    "agreement": Filter(agreement.agreement, agreement.Params, alone=_always),
    "wrong_label": Filter(wrong_label.wrong_label, wrong_label.Params, wrong_label.check),
    "image_text": Filter(image_text.image_text, image_text.Params, image_text.check, alone=_always),
    "judge": Filter(judge.judge, judge.Params, judge.check, paid=True),
    "class_balance": Filter(class_balance.class_balance, class_balance.Params),
    "diversity": Gate(diversity.diversity, diversity.Params),
}


def check(terms: Sequence[Term], recipe: Recipe | None = None) -> None:
    """Refuse unknown filters and parameters before anything is started, and with the `recipe` what does not fit it.

    Raises RecipeError naming the filter.
    """
    for index, term in enumerate(terms):
        if term.name not in FILTERS:
            raise RecipeError(f"curate.filters.{index}: unknown filter", got=term.name, expected=", ".join(FILTERS))
        entry = FILTERS[term.name]
        params = entry.params.parse(term.params, at=f"curate.filters.{index}.params")
        if recipe is not None and isinstance(entry, Filter) and entry.check is not None:
            entry.check(params, recipe)
