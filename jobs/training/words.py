"""Words of a recipe's rule `tokens` as the ids that a task writes them with, so that a recipe names no numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cluster.errors import RecipeError
from cluster.recipe import Recipe, Stage, Term
from cluster.recipe.training import Focus, LossTerm
from jobs import tasks

RULE = "tokens"


def resolved(stage: Stage, task: tasks.Task) -> Stage:
    """The stage with the words of its rules as further `runs`. Raises RecipeError as `runs_of`."""
    terms = [_resolved(term, task) for term in stage.losses]
    return stage if terms == list(stage.losses) else stage.model_copy(update={"losses": terms})


def check(recipe: Recipe, task: tasks.Task) -> None:
    """Refuse words that the task does not write. Raises RecipeError naming stage and word."""
    for where, section in (("fit", recipe.fit), ("distill", recipe.distill)):
        for stage in section.active:
            try:
                resolved(stage, task)
            except RecipeError as error:
                what = f"{where}: stage {stage.name}: {error.what}"
                raise RecipeError(what, got=error.got, expected=error.expected) from None


def runs_of(words: Sequence[str], task: tasks.Task) -> list[list[int]]:
    """Every run of target ids that one of the words is written as. Raises RecipeError for a word without any."""
    if not isinstance(task, tasks.Worded):
        raise RecipeError("focus rule tokens: this task has no words", got=list(words), expected="ids")
    found: list[list[int]] = []
    for word in words:
        runs = task.word_runs(word)
        if not runs:
            raise RecipeError("focus rule tokens: a word that no answer is written with", got=word,
                              expected="words of the vocabulary, or names of classes")  # fmt: skip
        found += [run for run in runs if run not in found]
    return found


def _resolved(term: Any, task: tasks.Task) -> Term | LossTerm:
    if not isinstance(term, LossTerm) or not any(rule.name == RULE and rule.params.get("words") for rule in term.focus):
        return term  # type: ignore[no-any-return]
    return term.model_copy(update={"focus": [_numbered(rule, task) for rule in term.focus]})


def _numbered(rule: Focus, task: tasks.Task) -> Focus:
    words: Any = rule.params.get("words")
    if rule.name != RULE or not words:
        return rule
    known: Any = rule.params.get("runs", [])
    return rule.model_copy(update={"params": {**rule.params, "words": [], "runs": [*known, *runs_of(words, task)]}})
