"""Incremental distillation: which finished run a new one continues, and whether the two fit.

The new run takes over the old teacher and starts from the old student; a share of its rows is replayed from the old
soft labels (experience replay, arXiv 1811.11682), and the report says what of the old exam was forgotten.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cluster.canonical import file_digest
from cluster.errors import ArtifactMissing, InputError, MismatchError
from cluster.recipe import DistillSection, Recipe
from cluster.registry import Registry
from cluster.store import Artifact, Store
from jobs import tasks
from jobs.data.augment.where import Where
from jobs.step import run_name

KINDS = ("teacher", "samples", "curated", "student", "bundle", "report")
# What decides how soft labels read and which weights fit; the rest of a recipe may change.
FIELDS = ("task", "teacher.architecture", "teacher.weights", "teacher.params", "student.architecture",
          "student.params", "generate.labels", "generate.hidden_layer")  # fmt: skip


@dataclass(frozen=True)
class Earlier:
    """A finished run: its name, its artifacts by kind, and the recipe that made it."""

    run: str
    artifacts: Mapping[str, Artifact]
    recipe: Recipe

    def folder(self, kind: str) -> Path:
        """The Hugging Face folder of its teacher or student."""
        return self.artifacts[kind].path() / "hf"


def find(recipe: Recipe, store: Store) -> Earlier | None:
    """The run that `distill.continue_from` names, None where it names none.

    An alias is looked up once for a run, and pinned: it may move while the run is under way. Raises InputError when
    there is no such model, run or artifact.
    """
    wanted = recipe.distill.continue_from
    if wanted is None:
        return None
    pin = f"continued/{run_name(recipe)}"
    known = store.read_record(pin)
    pinned = known or _run_of(wanted, recipe, store)
    run = str(pinned["run"])
    # A run's record is that of its last time: the same recipe on other rows writes over it, the promoted one does not.
    record = pinned if pinned.get("artifacts") else store.read_record(f"runs/{run}")
    if record is None:
        names = ", ".join(name.removeprefix("runs/") for name in store.records("runs/")[-5:])
        raise InputError("distill.continue_from: no such run", got=run, expected=f"MODEL@ALIAS or one of {names}")
    try:
        artifacts = {kind: store.get(kind, record["artifacts"][kind]) for kind in KINDS}
    except (KeyError, ArtifactMissing) as error:
        raise InputError("distill.continue_from: the run is not whole", got=error, expected=", ".join(KINDS)) from None
    report = json.loads((artifacts["report"].path() / "report.json").read_text())
    if known is None:
        store.write_record(pin, pinned)
    return Earlier(run, artifacts, Recipe.parse(report["recipe"]["resolved"], source=f"the recipe of {run}"))


def check(recipe: Recipe, store: Store) -> None:
    """Refuse a run that cannot continue the earlier one. Raises MismatchError naming the field."""
    earlier = find(recipe, store)
    for values in recipe.distill.replay_except:
        Where.parse(values, at="distill.replay_except")
    if earlier is None:
        return
    check_task(recipe, "distill.continue_from")
    for path in FIELDS:
        got, expected = _field(recipe, path), _field(earlier.recipe, path)
        if got != expected:
            raise _mismatch(path, got, expected, earlier)
    task = tasks.of(recipe)
    with tempfile.TemporaryDirectory() as made:
        task.save(task.build(recipe.student, recipe.seed), Path(made))
        new, old = (json.loads((place / "task.json").read_text()) for place in (Path(made), earlier.folder("student")))
        for name in sorted(new.keys() | old.keys()):
            if (name in new, new.get(name)) != (name in old, old.get(name)):
                raise _mismatch(f"{name} (task.json)", new.get(name), old.get(name), earlier)
        got, expected = (_tokenizer(place) for place in (Path(made), earlier.folder("student")))
        if got != expected:
            raise _mismatch("tokenizer.json", got, expected, earlier)
    tasks.of(earlier.recipe).check()  # its exam is asked again


def check_task(recipe: Recipe, what: str) -> None:
    """Refuse a recipe whose students cannot be continued, for `what` asks it. Raises MismatchError."""
    if not tasks.of(recipe).continuable:
        hint = "a whole run: python -m jobs run RECIPE"
        said = f"{what}: a student is continued where answers are right or wrong: what it forgets is measured by them"
        raise MismatchError(said, got=recipe.task, expected="a task with one right answer", hint=hint)


def replayed(section: DistillSection, new: pa.Table, old: pa.Table, seed: int) -> np.ndarray:
    """Which rows of `old` samples are trained on beside the `new` ones, int64 sorted: `replay_share` of all, as far as
    there are as many; rows that are in both are not taken twice, those of `replay_except` not at all."""
    free_R = ~np.isin(old["sample_id"].to_numpy(), new["sample_id"].to_numpy())
    for values in section.replay_except:
        free_R &= ~Where.parse(values, at="distill.replay_except").rows(_by_answer(old))
    free, share = np.flatnonzero(free_R), section.replay_share
    wanted = min(len(free), round(share / (1 - share) * len(new)))
    return np.sort(np.random.default_rng([seed, wanted]).permutation(free)[:wanted])


def _by_answer(samples: pa.Table) -> pa.Table:
    """The samples with the answer they were learned by as their label: a variant has no other."""
    place = samples.column_names.index("label_name")
    return samples.set_column(place, "label_name", samples["response"])


def _run_of(wanted: str, recipe: Recipe, store: Store) -> dict[str, Any]:
    """`run`, and of a promoted model the `artifacts` that its own report names."""
    model, at, alias = wanted.partition("@")
    if not at:
        return {"run": wanted}
    version = Registry.beside(store.workspace, recipe.promote.tracking_uri).alias(model, alias)
    if version is None:
        raise InputError("distill.continue_from: no such model or alias", got=wanted, expected="MODEL@ALIAS or a run")
    report = store.find("report", version.tags["report_id"]) if "report_id" in version.tags else None
    if report is None:
        return {"run": version.tags["run"]}
    told = json.loads((report.path() / "report.json").read_text())
    return {"run": version.tags["run"], "artifacts": told["artifacts"]}


def _field(recipe: Recipe, path: str) -> Any:
    values: Any = recipe.identity()
    for part in path.split("."):
        values = values[part]
    return values


def _tokenizer(folder: Path) -> str | None:
    """Hash (64 hex) of a model's tokenizer, None for one that reads no text."""
    path = folder / "tokenizer.json"
    return file_digest(path) if path.is_file() else None


def _mismatch(field: str, got: object, expected: object, earlier: Earlier) -> MismatchError:
    what = f"distill.continue_from: {field} is not that of {earlier.run}"
    return MismatchError(what, got=got, expected=expected, hint="set it as it was, or start without continue_from")
