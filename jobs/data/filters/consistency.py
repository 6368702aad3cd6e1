"""Keeps rows that a rule of the recipe holds for: a named rule, or a Jinja2 expression over the row's columns.

The expression runs in Jinja2's sandbox. A judge that is a model is the filter `judge`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import Field

from cluster import sandbox
from cluster.recipe import Recipe
from cluster.recipe.base import Section
from cluster.schema import COLUMNS
from jobs.data.filters.rows import Rows, Verdicts, unscored

Row = dict[str, Any]
RULES: dict[str, Callable[[Row], bool]] = {
    "answer_is_not_the_prompt": lambda row: row["response"].strip().lower() != row["prompt"].strip().lower(),
    "answer_ends_a_sentence": lambda row: row["response"].rstrip().endswith((".", "!", "?")),
    "answer_has_no_repeat": lambda row: not _repeats(row["response"].split()),
}
READABLE = tuple(name for name in COLUMNS["samples"] if name != "images")


class Params(Section):
    """The rule."""

    rule: str = Field(
        min_length=1, description="a named rule, or a Jinja2 expression over the columns of the samples, true for kept"
    )


def check(params: Params, recipe: Recipe) -> None:
    """Refuse an expression that cannot be read or asks for unknown columns. Raises RecipeError."""
    if params.rule not in RULES:
        _compiled(params.rule)


def consistency(rows: Rows, params: Params) -> Verdicts:
    """ "inconsistent" where the rule does not hold, "rule_failed" where it cannot be asked of the row (a null in a
    column that it takes apart). Raises RecipeError as `check` does."""
    rule = RULES[params.rule] if params.rule in RULES else _compiled(params.rule)
    columns = [name for name in READABLE if name in rows.samples.column_names]
    return unscored([_judged(rule, row) for row in rows.samples.select(columns).to_pylist()])


def _judged(rule: Callable[[Row], Any], row: Row) -> str | None:
    from jinja2 import TemplateError

    try:
        return None if rule(row) else "inconsistent"
    except (TypeError, ValueError, AttributeError, ArithmeticError, LookupError, TemplateError):
        return "rule_failed"


def _compiled(expression: str) -> Callable[[Row], Any]:
    at = f"consistency: {expression!r} is none of the rules {', '.join(RULES)}"
    compiled = sandbox.expression(expression, READABLE, at)
    return lambda row: compiled(**row)


def _repeats(words: list[str], size: int = 4) -> bool:
    """Whether a run of `size` words comes three times one after another, as a model's that is caught in a loop."""
    for start in range(len(words) - 3 * size + 1):
        run = words[start : start + size]
        if words[start + size : start + 3 * size] == run * 2:
            return True
    return False
