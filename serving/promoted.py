"""Which bundle a recipe's promoted model is, and the teacher behind it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cluster.errors import InputError
from cluster.recipe import Recipe
from cluster.registry import ARTIFACT_TAG, Registry
from cluster.store import Store
from serving.gateway import Names

ALIASES = ("champion", "challenger")


@dataclass(frozen=True)
class Promoted:
    """Folders to serve from, and how answers are signed."""

    bundle: Path
    teacher: Path
    names: Names


def find(recipe: Recipe, store: Store) -> Promoted:
    """The champion of the recipe's model, else the challenger.

    Raises InputError when nothing was promoted, StoreError when what was promoted is gone or changed.
    """
    model = recipe.promote.model_name
    registry = Registry.beside(store.workspace, recipe.promote.tracking_uri)
    for alias in ALIASES:
        version = registry.alias(model, alias)
        if version is not None:
            bundle = store.get("bundle", version.tags[ARTIFACT_TAG])
            teacher = store.get("teacher", bundle.manifest.parents["teacher"])
            names = Names(model, str(version.version), teacher.id)
            return Promoted(bundle.path(), teacher.path() / "hf", names)
    hint = f"python -m jobs run {recipe.name} --store {store.root}"
    raise InputError(f"no version of {model} is promoted", expected=f"an alias {' or '.join(ALIASES)}", hint=hint)
