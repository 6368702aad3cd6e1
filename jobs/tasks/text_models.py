"""Which teachers and students a text recipe may name, and what names their weights."""

from __future__ import annotations

from pathlib import Path

from cluster.errors import RecipeError
from cluster.recipe import ModelSection
from jobs.data import tabular
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


def identity(source: str) -> dict[str, str]:
    """File -> sha256 (64 hex) of weights that are files here, else the hub id."""
    folder = Path(weights.locate(source))
    if not folder.is_dir():
        return {"hub": source}
    wanted = ("*.safetensors", "*.bin", "config.json", "tokenizer*.json")
    return {file.name: tabular.sha256(file) for pattern in wanted for file in sorted(folder.glob(pattern))}
