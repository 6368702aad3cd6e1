"""What a deployment names to be watched: `serving.watcher:open_observer`, and the settings it travels with."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cluster.errors import RaydistillError

if TYPE_CHECKING:
    from cluster.recipe import Recipe
    from cluster.store import Store
    from serving.observe import Ask, Observer


def open_observer(args: Mapping[str, Any], ask: Ask) -> Observer:
    """The observer of one gateway replica; `args` is what `arguments` made."""
    from serving.monitor_actor import Link
    from serving.witness import Witness

    return Witness(args, ask, Link(args))


def arguments(recipe: Recipe, store: Store, version: str) -> dict[str, Any]:
    """The settings of a service of `recipe`'s model, JSON-ready; `version` is the champion's."""
    return {
        "model": recipe.promote.model_name,
        "task": recipe.task,
        "store": store.root,
        "experiment": recipe.experiment.model_dump(mode="json"),
        "traffic": recipe.traffic.model_dump(mode="json"),
        "drift": recipe.drift.model_dump(mode="json"),
        "references": references(recipe, store, version),
    }


def references(recipe: Recipe, store: Store, version: str) -> dict[str, float]:
    """Quality of the version when it was promoted, from the report on its bundle: `agreement` with the teacher and
    `accuracy` (the primary metric, where it is one). {} where there is no report: then the first window is it."""
    import json

    from cluster.registry import ARTIFACT_TAG, Registry

    with contextlib.suppress(RaydistillError, ValueError, KeyError):
        registry = Registry.beside(store.workspace, recipe.promote.tracking_uri)
        bundle = registry.lineage(recipe.promote.model_name, int(version))[ARTIFACT_TAG]
        for artifact in reversed(store.list("report")):
            if artifact.manifest.parents["bundle"] == bundle:
                report = json.loads((artifact.path() / "report.json").read_text())
                measured = report["models"]["student_int8"]["metrics"]
                found = {"agreement": measured["agreement"]} if "agreement" in measured else {}
                if report["primary_metric"] in ("accuracy", "exact_match"):
                    found["accuracy"] = measured[report["primary_metric"]]
                return found
    return {}
