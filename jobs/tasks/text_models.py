"""Which teachers and students a text recipe may name, and what names their weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cluster.errors import MismatchError, RecipeError
from cluster.recipe import ModelSection, Recipe
from jobs.data import tabular
from jobs.tasks import masking
from serving import teachers
from serving.models import encoder, weights

ARCHITECTURE = "encoder"


def check(name: str, section: ModelSection) -> None:
    """Refuse a model that is no encoder (a teacher may also be one of `teachers.KINDS`), before weights are read.

    `name` is "teacher" or "student". Raises RecipeError: architecture, sizes, or weights that are not there.
    """
    if name == "teacher" and section.architecture in teachers.KINDS:
        return  # `serving.teachers.check` has
    if section.architecture != ARCHITECTURE:
        raise RecipeError(f"{name}.architecture", got=section.architecture, expected=ARCHITECTURE)
    if section.weights is None:
        encoder.EncoderParams.parse(section.params, at=f"{name}.params")
    elif section.params:
        raise RecipeError(f"{name}.params: the sizes come from {name}.weights", got=section.params, expected="{}")
    else:
        weights.locate(section.weights)


def check_training(recipe: Recipe) -> None:
    """Refuse hidden states and stages that no encoder of texts has. Raises RecipeError."""
    generate = recipe.generate
    if generate.hidden_layer not in (None, -1):
        expected = "-1 (the pooled last layer), null, or several as hidden_layers"
        raise RecipeError("generate.hidden_layer", got=generate.hidden_layer, expected=expected)
    if any(stage.kv_heads is not None for stage in (*recipe.fit.stages, *recipe.distill.stages)):
        raise RecipeError("stages: kv_heads: an encoder has no key/value cache", expected="kv_heads null")
    if recipe.teacher.architecture in teachers.KINDS and generate.kept_layers:
        raise RecipeError("generate.hidden_layer: this teacher shows no hidden states", expected="null")


def check_weights(recipe: Recipe, base: str, tokenizer: Any, max_tokens: int) -> None:
    """Refuse rows longer than the weights `base` read, layers and a mask that they lack, and a student of another
    vocabulary. Raises RecipeError or MismatchError."""
    longest = weights.positions(base)
    if longest is not None and max_tokens > longest:
        what = "data.params.max_tokens is more than the teacher reads"
        raise MismatchError(what, got=max_tokens, expected=f"at most {longest}")
    count = weights.layers(base)
    if count is not None and (wrong := [number for number in recipe.generate.hidden_layers if abs(number) > count]):
        raise RecipeError("generate.hidden_layers: no such layer", got=wrong, expected=f"1 to {count}")
    asked = [stage.name for stage in recipe.distill.active if any(t.name == "masked_tokens" for t in stage.losses)]
    if asked and masking.mask_id(tokenizer) is None:
        expected = "one of " + ", ".join(masking.MASKS)
        raise RecipeError(f"stage {asked[0]}: masked_tokens: no mask in the vocabulary", got=base, expected=expected)
    own = recipe.student.weights
    if own is not None and weights.tokenizer(own).get_vocab() != tokenizer.get_vocab():
        hint = "take student.weights of the same family, or null: a fresh student with the teacher's vocabulary"
        raise MismatchError("teacher and student vocabularies differ", got=own, expected=base, hint=hint)


def identity(source: str) -> dict[str, str]:
    """File -> sha256 (64 hex) of weights that are files here, else the hub id."""
    folder = Path(weights.locate(source))
    if not folder.is_dir():
        return {"hub": source}
    wanted = ("*.safetensors", "*.bin", "config.json", "tokenizer*.json")
    return {file.name: tabular.sha256(file) for pattern in wanted for file in sorted(folder.glob(pattern))}
