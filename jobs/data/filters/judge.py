"""Asks a model whether a row is good: an LLM judge, any teacher that writes (`serving.teachers`), one question a row.

The judge says one of the words in `accept` first, or one of those in `refuse`; anything else is no verdict, and a row
without a verdict is refused as such, so that a silent judge never lets rows through.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import Field

from cluster import sandbox
from cluster.canonical import digest
from cluster.errors import RecipeError
from cluster.recipe import ModelSection, Recipe
from cluster.recipe.base import Section
from jobs.data.filters.rows import Rows, Verdicts
from serving import teachers

ASKED = ("prompt", "response", "label_name", "slice")
QUESTION = (
    "Is the answer right, complete and free of harm?\n"
    "Question: {{ prompt }}\n"
    "Answer: {{ response }}\n"
    "Say yes or no, and nothing else."
)


class Params(Section):
    """Who judges, and what it is asked."""

    judge: ModelSection = Field(description="the judge, written as a teacher: architecture, weights, params, asking")
    question: str = Field(QUESTION, min_length=1, description=f"Jinja2 template over {', '.join(ASKED)}")
    accept: list[str] = Field(["yes"], min_length=1, description="first words that keep a row, in lower case")
    refuse: list[str] = Field(["no"], min_length=1, description="first words that refuse it, in lower case")
    batch_size: int = Field(256, ge=1, description="rows handed to the judge at once (rows)")


def check(params: Params, recipe: Recipe) -> None:
    """Refuse a judge that cannot be asked and a question that cannot be filled. Raises InputError."""
    if params.judge.architecture not in teachers.KINDS:
        raise RecipeError(
            "judge: a model that writes", got=params.judge.architecture, expected=", ".join(teachers.KINDS)
        )
    if both := sorted(set(params.accept) & set(params.refuse)):
        raise RecipeError("judge: a word that accepts and refuses", got=both[0], expected="two different lists")
    teachers.check(params.judge, "judge")
    _template(params)


def judge(rows: Rows, params: Params) -> Verdicts:
    """ "judged_bad" for what the judge refuses, "not_judged" where it gives no verdict; the score is its confidence in
    what it said (0 to 1, NaN where it shows none). Raises InputError as `check`."""
    # A budget holds for the curation, also when it is tried again; two judges have one each.
    ledger = rows.spent and rows.spent / f"judge-{digest(params.judge.model_dump(mode='json'))[:16]}.json"
    sharing = teachers.Sharing(ledger=ledger)
    asked, model = _template(params), teachers.open_teacher(params.judge, sharing=sharing, at="judge")
    reasons: list[str | None] = []
    scores: list[float] = []
    table = rows.samples.select([name for name in ASKED if name in rows.samples.column_names])
    for start in range(0, table.num_rows, params.batch_size):
        part = table.slice(start, params.batch_size).to_pylist()
        prompts = [model.prompt({"text": asked.render(**_plain(row))}) for row in part]
        for reply in model.complete(prompts):
            text, confidence = (None, None) if isinstance(reply, teachers.Failure) else (reply.text, reply.confidence)
            reasons.append("not_judged" if text is None else _verdict(text, params))
            scores.append(np.nan if confidence is None else confidence)
    return Verdicts(reasons, np.array(scores, float))


def _verdict(text: str, params: Params) -> str | None:
    first = (re.findall(r"\w+", text.lower()) or [""])[0]
    if first in params.accept:
        return None
    return "judged_bad" if first in params.refuse else "not_judged"


def _template(params: Params) -> Any:
    return sandbox.template(params.question, dict.fromkeys(ASKED, "some text"), "judge: question")


def _plain(row: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(row[name]) if name in row and row[name] is not None else "" for name in ASKED}
