"""What the name of a model on the command line means: a run, a report, a registered version, a bundle's folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.errors import InputError
from cluster.recipe import Recipe
from cluster.registry import Registry, Version
from cluster.store import Store
from cluster.store.store import NAME
from jobs import evaluate

LATEST = "latest"
RUNS = "runs/"


@dataclass(frozen=True)
class Named:
    """A finished run: what was asked for, its run name, recipe and artifact ids by kind; `version` where it was named
    by the registry, `folder` where it was named by its bundle's folder."""

    asked: str
    run: str
    recipe: Recipe
    artifacts: Mapping[str, str]
    version: Version | None = None
    folder: Path | None = None


def find(store: Store, asked: str) -> Named:
    """The run behind `latest`, a run's name, a report's id, MODEL, MODEL@ALIAS or MODEL@VERSION, or a bundle's folder.

    MODEL alone is its champion, else its challenger. Raises InputError naming what is there.
    """
    if (folder := Path(asked)).joinpath("bundle.json").is_file():
        return _of_folder(store, asked, folder)
    if asked == LATEST:
        return _latest(store)
    if "@" not in asked and (record := store.read_record(RUNS + asked) if _is_name(asked) else None) is not None:
        return _of_record(asked, record)
    if "@" not in asked and _is_name(asked) and (report := store.find(evaluate.STEP.kind, asked)) is not None:
        return _of_report(asked, evaluate.report_of(report))
    version = _version(store, asked)
    if version is None:
        expected = f"MODEL@ALIAS, a bundle's folder, latest, or a run: {_known(store)}"
        raise InputError("no such model or run", got=asked, expected=expected, hint=f"looked in {store.root}")
    return _of_version(store, asked, version)


def registry_of(store: Store, model: str) -> Registry:
    """The registry that a model is in: that of the last run which promotes it, else the one beside the store."""
    for name in reversed(_runs(store)):
        record = store.read_record(RUNS + name) or {}
        promote = record.get("recipe", {}).get("promote", {})
        if promote.get("model_name") == model:
            return Registry.beside(store.workspace, promote.get("tracking_uri"))
    return Registry.beside(store.workspace)


def _version(store: Store, asked: str) -> Version | None:
    model, _, place = asked.partition("@")
    if not model:
        return None
    registry = registry_of(store, model)
    if place.isdigit():
        return registry.version(model, int(place))
    for alias in [place] if place else ["champion", "challenger"]:
        found = registry.alias(model, alias)
        if found is not None:
            return found
    return None


def _latest(store: Store) -> Named:
    reports = store.list(evaluate.STEP.kind)
    if not reports:
        expected = "a finished run"
        raise InputError("there is no report yet", got=store.root, expected=expected, hint="python -m jobs run RECIPE")
    return _of_report(LATEST, evaluate.report_of(reports[-1]))


def _of_record(asked: str, record: Mapping[str, Any]) -> Named:
    return Named(asked, record["run"], Recipe.parse(record["recipe"], source=asked), record["artifacts"])


def _of_report(asked: str, report: Mapping[str, Any]) -> Named:
    recipe = Recipe.parse(report["recipe"]["resolved"], source=f"the recipe of {report['run']}")
    return Named(asked, report["run"], recipe, report["artifacts"])


def _of_version(store: Store, asked: str, version: Version) -> Named:
    tags = version.tags
    report = store.get(evaluate.STEP.kind, tags["report_id"])
    found = _of_report(asked, evaluate.report_of(report))
    return Named(asked, found.run, found.recipe, found.artifacts, version)


def _of_folder(store: Store, asked: str, folder: Path) -> Named:
    """A bundle's folder, wherever it lies: known by the checksums in its `bundle.json`."""
    files = json.loads((folder / "bundle.json").read_text())["files"]
    for report in reversed(store.list(evaluate.STEP.kind)):
        bundle = store.find("bundle", report.manifest.parents["bundle"])
        if bundle is None:
            continue
        own = {name: entry.sha256 for name, entry in bundle.manifest.files.items()}
        if all(own.get(name) == entry["sha256"] for name, entry in files.items()):
            found = _of_report(asked, evaluate.report_of(report))
            return Named(asked, found.run, found.recipe, found.artifacts, None, folder)
    hint = "name the store that it was made in with --store"
    raise InputError("no run made this bundle", got=str(folder), expected=f"a bundle of {store.root}", hint=hint)


def _is_name(asked: str) -> bool:
    return NAME.match(asked) is not None


def _runs(store: Store) -> list[str]:
    return [name.removeprefix(RUNS) for name in store.records(RUNS)]


def _known(store: Store) -> str:
    return ", ".join(_runs(store)[-5:]) or "none"
