"""What a deployment names to be watched (`OPEN`), and the settings it travels with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cluster.measured import STUDENT_INT8
from cluster.recipe.drift import DriftSection
from cluster.recipe.experiment import ExperimentSection
from cluster.recipe.traffic import TrafficSection
from cluster.registry import ARTIFACT_TAG, Registry
from serving.monitoring import likeness
from serving.monitoring.judge import trial_arms

if TYPE_CHECKING:
    from cluster.recipe import Recipe
    from cluster.store import Artifact, Store
    from serving.seams.observe import Ask, Observer

OPEN = "serving.monitoring.watcher:open_observer"


def open_observer(args: Mapping[str, Any], ask: Ask) -> Observer:
    """The observer of one gateway replica; `args` is the `spec`'s. Raises InputError as `spec`."""
    from serving.monitoring.actor import Link
    from serving.monitoring.witness import Witness

    if ExperimentSection.parse(args["experiment"]).enabled:
        likeness.check(str(args["task"]))  # another machine than `spec`'s, and maybe another installation
    return Witness(args, ask, Link(args))


def spec(store: Store, model: str, version: str, recipe: Recipe | None = None) -> dict[str, Any]:
    """What a deployment carries (`observe.open_observer`) to have version `version` of `model` watched, JSON-ready.

    Sections are the recipe's; without one they are the defaults. Quality at promotion is read from the report on the
    version's bundle; where there is none, the first window of requests is what later ones are compared with. Raises
    InputError where the task's answers cannot be compared with what is installed here.
    """
    experiment = recipe.experiment if recipe else ExperimentSection()
    sections = {
        "experiment": experiment,
        "traffic": recipe.traffic if recipe else TrafficSection(),
        "drift": recipe.drift if recipe else DriftSection(),
    }
    settings: dict[str, Any] = {name: section.model_dump(mode="json") for name, section in sections.items()}
    bundle = _bundle(store, model, version, recipe.promote.tracking_uri if recipe else None)
    task = _task(bundle)
    if experiment.enabled:
        likeness.check(task)
    settings |= {"model": model, "store": store.root, "task": task, "references": _references(store, bundle, task)}
    return {"open": OPEN, "args": settings}


def arms(spec: Mapping[str, Any]) -> dict[str, float]:
    """The arms that a deployment with this `spec` tries, and the share of all units that each one's experiment owns."""
    return dict(trial_arms(ExperimentSection.parse(spec["args"]["experiment"])).values())


def _bundle(store: Store, model: str, version: str, tracking_uri: str | None) -> Artifact | None:
    """The version's bundle; None where it is not registered."""
    if not version.isdecimal():
        return None
    registry = Registry.beside(store.workspace, tracking_uri)
    return store.get("bundle", registry.lineage(model, int(version))[ARTIFACT_TAG])


def _task(bundle: Artifact | None) -> str:
    """The bundle's task: it says how answers are compared."""
    return str(json.loads((bundle.path() / "bundle.json").read_text())["task"]) if bundle else "unknown"


def _references(store: Store, bundle: Artifact | None, task: str) -> dict[str, float]:
    """`agreement` with the teacher and `accuracy` (the primary metric where it is one) of the newest report on it.

    None of a task whose answers are judged by another measure than the report's: of written texts it has the share of
    equal next tokens, and what is judged here is the BLEU of whole answers.
    """
    if likeness.measure(task) != "same":
        return {}
    reports = [one for one in store.list("report") if bundle and one.manifest.parents.get("bundle") == bundle.id]
    if not reports:
        return {}
    report = json.loads((reports[-1].path() / "report.json").read_text())
    measured, primary = report["models"][STUDENT_INT8]["metrics"], report["primary_metric"]
    found = {"agreement": measured["agreement"]} if "agreement" in measured else {}
    return found | ({"accuracy": measured[primary]} if primary in ("accuracy", "exact_match") else {})
