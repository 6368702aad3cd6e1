"""The two models that are compared, and the rows both are asked: one exam, two columns of answers.

Shape legend: R rows.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cluster.errors import DataError, InputError
from cluster.measured import CONTROL, STUDENT, STUDENT_INT8, TEACHER
from cluster.recipe import Recipe
from cluster.store import Store
from jobs import tasks
from jobs.after import naming
from jobs.data import items
from serving import teachers
from serving.bundle import predict

ROLES = {TEACHER: "teacher", STUDENT: "student", STUDENT_INT8: "bundle", CONTROL: "control"}  # model -> artifact kind
SPLITS = ("validation", "test", "train")


@dataclass(frozen=True)
class Side:
    """One model: what people call it, its folder (`bundle`: an exported one), and the recipe of the run it is from
    (None for a bundle that no run of this store made)."""

    name: str
    folder: Path
    bundle: bool
    recipe: Recipe | None


@dataclass(frozen=True)
class Asked:
    """R requests: the table both models were asked (`cluster.schema` "requests" columns), and the true answers (None
    where nobody knows)."""

    table: pa.Table
    truth: Sequence[str | None]

    def __len__(self) -> int:
        return len(self.truth)


@dataclass(frozen=True)
class Said:
    """What one model answered: texts [R] and confidences float64 [R]."""

    texts: Sequence[str]
    confidence_R: np.ndarray


def side(store: Store, asked: str) -> Side:
    """The model that `NAME` or `NAME:ROLE` means; roles are teacher, student (float), student_int8 and control.

    NAME is what `jobs.after.naming.find` reads; without a role it is the bundle that is served. Raises InputError.
    """
    name, colon, role = asked.rpartition(":")
    if not colon or role not in ROLES:
        name, role = asked, STUDENT_INT8
    folder = Path(name)
    if folder.joinpath("bundle.json").is_file() and role == STUDENT_INT8:
        try:
            return Side(asked, folder, True, naming.find(store, name).recipe)
        except InputError:
            return Side(asked, folder, True, None)  # made in another store: its answers are as good
    found = naming.find(store, name)
    if found.version is not None and found.version.tags.get("kind") == "teacher":
        role = TEACHER
    kind = ROLES[role]
    if kind not in found.artifacts:
        expected = ", ".join(one for one, own in ROLES.items() if own in found.artifacts)
        raise InputError(f"{found.run} has no {role}", got=asked, expected=expected)
    path = store.get(kind, found.artifacts[kind]).path()
    shown = f"{found.asked}:{role}" if colon and role != STUDENT_INT8 else found.asked
    return Side(shown, path if kind == "bundle" else path / "hf", kind == "bundle", found.recipe)


def both(store: Store, one: str, other: str | None) -> tuple[Side, Side]:
    """The two sides; with one name alone the teacher and the served student of its run."""
    return (
        (side(store, f"{one}:teacher"), side(store, one)) if other is None else (side(store, one), side(store, other))
    )


def rows_of(recipe: Recipe, split: str, max_rows: int | None, seed: int) -> Asked:
    """The recipe's rows of a split (views of training rows left out), or `max_rows` of them, chosen by `seed`.

    Raises InputError on an unknown split and on tasks whose answers are never the same text twice.
    """
    if split not in SPLITS:
        raise InputError("--split names no split", got=split, expected=", ".join(SPLITS))
    if recipe.task == "text_generation":
        hint = "compare likelihoods: python -m jobs report RUN --compare RUN"
        raise InputError("written texts are not right or wrong", got=recipe.task, expected="classes", hint=hint)
    table = tasks.of(recipe).requests(split)
    table = table.filter(pa.array([parent is None for parent in table["parent"].to_pylist()], pa.bool_()))
    if max_rows is not None and max_rows < len(table):
        table = table.take(np.sort(np.random.default_rng([seed, max_rows]).permutation(len(table))[:max_rows]))
    if not len(table):
        raise DataError("there is nothing to ask", got=f"no row in {split}", expected="rows", hint="--split")
    return Asked(table, table["label_name"].to_pylist())


def ask(model: Side, rows: Asked) -> Said:
    """What a model answers: a bundle one row at a time, as it is served; a folder of weights in torch."""
    asked = [items.item_of(row) for row in rows.table.select(list(items.COLUMNS)).to_pylist()]
    if model.bundle:
        engine = predict.load(model.folder)
        return _said([engine.predict([item])[0] for item in asked])
    if teachers.elsewhere(model.folder):
        teacher = teachers.open_folder(model.folder)
        return _said(teachers.answers(teacher, asked))
    from serving.teachers import transformers

    answerer = transformers.load(model.folder)
    said = _said(answerer.answer(asked))
    del answerer
    gc.collect()
    return said


def attributes(rows: Asked) -> Mapping[str, Sequence[Any]]:
    """Columns of a request that people may name a slice by: its own slice, template, language and the like."""
    own = {name: rows.table[name].to_pylist() for name in ("slice", "template") if name in rows.table.column_names}
    extra = [name for name in rows.table.column_names if name not in _KNOWN]
    return own | {name: rows.table[name].to_pylist() for name in extra if pa.types.is_string(rows.table[name].type)}


_KNOWN = {
    "sample_id", "split", "slice", "template", "prompt", "images", "image_format", "audio", "frames", "fps", "label",
    "label_name", "seed_row", "parent", "view", "draw", "temperature", "seed",
}  # fmt: skip


def _said(answers: Sequence[predict.Answer]) -> Said:
    return Said([one.text for one in answers], np.array([one.confidence for one in answers], float))
