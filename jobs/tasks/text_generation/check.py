"""What a recipe of task `text_generation` may say, and why another is refused before the first minute is spent."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from pydantic import Field

from cluster.errors import MismatchError, RecipeError
from cluster.recipe import Recipe
from cluster.recipe.base import Section
from cluster.recipe.labels import LabelsSection
from cluster.recipe.models import ModelSection
from cluster.recipe.training import LossTerm
from jobs.data import corpus
from jobs.data.labels import form_of
from jobs.data.vocabulary import END, Vocabulary, refuse_another
from jobs.training import losses
from jobs.training.losses import sampled_cross_entropy
from jobs.training.schedules import params_at
from serving.models import decoder, weights

ARCHITECTURE, ASKED = "decoder", "causal_lm"


class Writing(Section):
    """How texts are read and continued (`data.params`)."""

    max_tokens: int = Field(
        128, ge=8, description="longest row; texts are cut into windows of it, prompts off (tokens)"
    )
    joined: bool = Field(False, description="texts are joined in their order before they are cut into windows")
    prompt_column: str | None = Field(None, description="column of the prompts; null: rows are texts (text_column)")
    response_column: str = Field("response", description="column of the true responses, beside prompt_column")
    tokenizer: str | None = Field(
        None, description="tokenizer.json, a folder with it, or one with GPT-2's two files; null: made of the rows"
    )
    vocabulary: int = Field(8192, ge=300, description="size of a tokenizer that is made of the rows (tokens)")
    end_token: str = Field(END, description="token that begins and ends a text, in a tokenizer read from a file")
    max_new_tokens: int = Field(32, ge=1, description="longest continuation or answer, the end included (tokens)")
    temperature: float = Field(0.0, ge=0, description="of the student's answers; 0: the likeliest token")


def check(recipe: Recipe, params: Writing) -> None:
    """Refuse what no rows need be read for. Raises RecipeError or MismatchError."""
    if recipe.data.source not in ("table", corpus.LIBRARY):
        expected = f"table or {corpus.LIBRARY}"
        raise RecipeError("data.source does not fit task text_generation", got=recipe.data.source, expected=expected)
    if recipe.data.source == corpus.LIBRARY and params.prompt_column is not None:
        raise RecipeError("data.params.prompt_column: the library has no prompts", got=params.prompt_column)
    if params.joined and params.prompt_column is not None:
        raise RecipeError("data.params.joined: prompts are not joined", got=True, expected=False)
    for name, section in (("teacher", recipe.teacher), ("student", recipe.student)):
        _check_model(name, section)
    generate = recipe.generate
    for name, given in (("fit.views", recipe.fit.views), ("generate.views", generate.views),
                        ("generate.augment", generate.augment)):  # fmt: skip
        if given:
            raise RecipeError(f"{name}: texts of a language model are not changed", got=given, expected="none")
    if params.prompt_column is None and (generate.templates or generate.temperatures or generate.draws > 1):
        hint = "templates, temperatures and draws are for prompts: data.params.prompt_column"
        raise RecipeError("generate: texts are scored as they stand", expected="no templates and one draw", hint=hint)
    if generate.hidden_layers or generate.hidden_layer not in (None, -1):
        got = generate.hidden_layers or generate.hidden_layer
        raise RecipeError("generate.hidden_layer", got=got, expected="-1 (the last state) or null")


def _check_model(name: str, section: ModelSection) -> None:
    if name == "teacher" and section.architecture == ASKED:
        return  # `serving.teachers.check` has
    if section.architecture != ARCHITECTURE:
        expected = f"{ARCHITECTURE} or {ASKED}" if name == "teacher" else ARCHITECTURE
        raise RecipeError(f"{name}.architecture", got=section.architecture, expected=expected)
    if section.weights is None:
        decoder.check(section.params, f"{name}.params")
    elif section.params:
        raise RecipeError(f"{name}.params: the sizes come from {name}.weights", got=section.params, expected="{}")
    else:
        weights.locate(section.weights)


def check_vocabulary(recipe: Recipe, params: Writing, own: Vocabulary) -> None:
    """Refuse weights of another tokenizer, and losses that cannot read the form the labels will have.

    Raises MismatchError or RecipeError.
    """
    teacher, student = recipe.teacher.weights, recipe.student.weights
    if teacher is not None and params.tokenizer is not None:
        hint = "teacher and student share the teacher's tokenizer: data.params.tokenizer null"
        raise RecipeError("data.params.tokenizer beside teacher.weights", got=params.tokenizer, hint=hint)
    if student is not None:
        refuse_another(own, student, "student.weights")
    labels = recipe.generate.labels
    resolved = labels.model_copy(update={"form": form_of(labels, own.size)})
    told = recipe.model_copy(update={"generate": recipe.generate.model_copy(update={"labels": resolved})})
    for index, stage in enumerate(recipe.distill.active):
        at = f"distill.stages.{index}.losses"
        losses.check(stage.losses, at, losses.absent(told, "distill", stage))
        for place, term in enumerate(stage.losses):
            if "teacher_sparse" in losses.LOSSES[term.name].needs:
                _check_stored(term, resolved, f"{at}.{place}")


def _check_stored(term: LossTerm, labels: LabelsSection, at: str) -> None:
    """Refuse a temperature that no mass is stored for, and a tail that the form does not have."""
    if term.name == "top_k_tail" and not labels.form.startswith("top_k"):
        raise RecipeError(f"{at}: top_k_tail reads a tail", got=labels.form, expected="generate.labels.form top_k")
    for step in (0, 1):
        asked: Any = losses.LOSSES[term.name].params.parse(params_at(term.params, step, 2))
        free = isinstance(asked, sampled_cross_entropy.Params) and asked.normalised
        if asked.temperature not in (1.0, labels.temperature) and not free:
            expected = f"1 or generate.labels.temperature ({labels.temperature:g})"
            what, hint = f"{at}.params.temperature: nothing is stored for it", "sampled_cross_entropy: normalised: true"
            raise RecipeError(what, got=asked.temperature, expected=expected, hint=hint)


def refuse_other_labels(labels: pa.Table, vocabulary: int) -> None:
    """Raise MismatchError where soft labels are of another vocabulary, or where a row has none."""
    found = labels["vocabulary"].unique().to_pylist()
    if found != [vocabulary]:
        hint = "the teacher's tokenizer is not the student's: generate again"
        raise MismatchError("soft labels of another vocabulary", got=found, expected=vocabulary, hint=hint)
