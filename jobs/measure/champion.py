"""The model that is served today, found by its alias, so that a new one can be asked the same golden questions."""

from __future__ import annotations

from dataclasses import dataclass

from cluster.errors import StoreError
from cluster.recipe import Recipe
from cluster.registry import SQLITE, Registry
from cluster.store import Store
from jobs import export
from serving.bundle import predict

ALIAS = "champion"


@dataclass(frozen=True)
class Champion:
    """A registered version and its bundle, opened."""

    model: str
    version: int
    engine: predict.Answerer


def find(recipe: Recipe, store: Store) -> Champion | str:
    """The champion of the recipe's model, or why there is none to ask: nothing is promoted yet, its bundle is not in
    this store or of another code, or it is of another task."""
    registry = Registry.beside(store.workspace, recipe.promote.tracking_uri)
    path = registry.uri.removeprefix(SQLITE)
    if registry.uri.startswith(SQLITE) and not store.workspace.joinpath(path).is_file():
        return "nothing is registered yet"
    try:
        version = registry.alias(recipe.promote.model_name, ALIAS)
        if version is None:
            return "no version is champion yet"
        bundle = store.find(export.STEP.kind, version.tags["artifact_id"])
        if bundle is None:
            return f"the bundle of version {version.version} is not in this store"
        engine = predict.load(bundle.path())
    except (StoreError, predict.BundleError) as error:
        return f"the champion cannot be opened: {error}"
    if engine.spec["task"] != recipe.task:
        return f"version {version.version} is of task {engine.spec['task']}"
    return Champion(version.model, version.version, engine)
