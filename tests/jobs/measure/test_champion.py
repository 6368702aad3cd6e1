"""The champion as golden samples ask it: found by its alias, opened, or missing with the reason."""

from pathlib import Path

from cluster.recipe import Recipe
from cluster.registry import Registry
from cluster.store import Artifact, Store
from jobs.measure import champion


def test_a_champion_is_opened_by_its_alias_and_what_is_missing_is_said(
    exported: tuple[Recipe, Store, Artifact], tmp_path: Path
) -> None:
    recipe, store, bundle = exported
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    recipe = recipe.model_copy(update={"promote": recipe.promote.model_copy(update={"tracking_uri": uri})})
    assert champion.find(recipe, store) == "nothing is registered yet"

    registry, name = Registry(uri), recipe.promote.model_name
    version = registry.register(name, str(bundle.path()), {"artifact_id": bundle.id})
    assert champion.find(recipe, store) == "no version is champion yet"

    registry.set_alias(name, "champion", version, expect=None)
    found = champion.find(recipe, store)
    assert isinstance(found, champion.Champion)
    assert (found.model, found.version, found.engine.spec["task"]) == (name, version, recipe.task)

    lost = registry.register(name, "elsewhere", {"artifact_id": "0" * 16})
    registry.set_alias(name, "champion", lost, expect=version)
    assert champion.find(recipe, store) == f"the bundle of version {lost} is not in this store"
