"""A recipe's rounds for a tool outside: `dvc.yaml`, an Airflow DAG, Kubernetes CronJobs; all run the same commands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.errors import InputError
from cluster.recipe import Recipe
from cluster.recipe.load import RECIPES
from jobs.commands import VERBS

TEMPLATES = Path(__file__).resolve().parents[2] / "cluster" / "deploy" / "schedules"
ALARM = "alarm"  # verdicts are looked at more often than any round is due
CRON = {
    "hourly": "0 * * * *", "daily": "0 3 * * *", "weekly": "0 4 * * 1", "monthly": "0 5 1 * *",
    "quarterly": "0 5 1 1,4,7,10 *",
}  # fmt: skip
ALARM_CRON = "*/10 * * * *"
WORDS = ["python", "-m", "jobs"]


@dataclass(frozen=True)
class Form:
    """One form: the template it is written from, and the name its file has by default."""

    template: str
    file: str


FORMS: Mapping[str, Form] = {
    "dvc": Form("dvc.yaml.j2", "dvc.yaml"),
    "airflow": Form("airflow.py.j2", "raydistill_dags.py"),
    "cronjob": Form("cronjob.yaml.j2", "cronjobs.yaml"),
}


@dataclass(frozen=True)
class Place:
    """What the commands are given: the recipe as it was named, its changes, and the store."""

    recipe: str
    changes: Sequence[str]
    store: str


def written(recipe: Recipe, place: Place, form: str) -> str:
    """The file's text. Raises InputError for an unknown form."""
    from jinja2 import Environment, StrictUndefined

    if form not in FORMS:
        raise InputError("--as names no form", got=form, expected=", ".join(FORMS))
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    template = environment.from_string((TEMPLATES / FORMS[form].template).read_text())
    return template.render(**_values(recipe, place))


def rounds_of(recipe: Recipe) -> dict[str, str]:
    """Kind of round -> cron line (UTC), alarms first; kinds that are never due are left out."""
    asked = recipe.watch.schedule.model_dump()
    return {ALARM: ALARM_CRON} | {kind: CRON[every] for kind, every in asked.items() if every != "never"}


def _values(recipe: Recipe, place: Place) -> dict[str, Any]:
    given = [place.recipe, *(word for change in place.changes for word in ("--set", change)), "--store", place.store]
    name = re.sub(r"[^a-z0-9]+", "-", recipe.promote.model_name.lower()).strip("-")
    local = "://" not in place.store
    return {
        "recipe": place.recipe, "name": name, "verbs": list(VERBS), "command": shlex.join(WORDS), "words": WORDS,
        "given": given, "arguments": shlex.join(given), "folder": f"schedule/{name}", "inputs": _inputs(recipe, place),
        "rounds": rounds_of(recipe), "cpus": recipe.resources.cpus or 2, "local": local,
        "mount": f"/app/{place.store.rstrip('/')}" if local and not place.store.startswith("/") else place.store,
    }  # fmt: skip


def _inputs(recipe: Recipe, place: Place) -> list[str]:
    """The files whose change makes the steps run again: the recipe's own, and its rows."""
    shipped = RECIPES / f"{place.recipe}.yaml"
    source = f"jobs/recipes/{place.recipe}.yaml" if shipped.is_file() else place.recipe
    data = (recipe.data.train, recipe.data.validation, recipe.data.test)
    return [source, *dict.fromkeys(path for path in data if path is not None)]
