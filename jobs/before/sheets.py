"""A labelling sheet that a person filled in, read back as hard labels that take precedence over the teacher's.

`jobs.after.active` writes the sheet. What a person said is certain: the row's answer, its confidence and its soft
label become that label, so no filter that doubts the teacher drops it. Curation notes them in `people.parquet`, and
whoever reads samples and soft labels lays them over (`overlay`); the artifact of `generate` stays as the teacher
answered.

Shape legend: P positions of an answer, V classes.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cluster import schema
from cluster.errors import DataError, MismatchError, RecipeError
from cluster.recipe import Recipe
from cluster.recipe.explain import nearest
from jobs.data import cells, readers, tabular
from jobs.data.readers import DeadLetter

PEOPLE = "people.parquet"
SOURCE = "label_source"  # column: person, data, or null for a row without a true label
CERTAIN = 0.999  # probability of a person's class in its soft label: float16 logits of the others stay finite


@dataclass(frozen=True)
class Sheet:
    """A filled-in sheet: sample_id -> label, rows refused with their reason, and how many were left empty."""

    file: str
    labels: dict[str, str]
    rows: dict[str, int]
    refused: list[DeadLetter]
    empty: int


@dataclass(frozen=True)
class Applied:
    """Samples with people's labels and the column `label_source`; which rows changed; the sheet's rows refused."""

    samples: pa.Table
    changed: list[str]
    refused: list[DeadLetter]


def read_sheet(path: Path) -> Sheet:
    """The labels of a sheet (CSV or Parquet with `sample_id` and `label`, other columns are not read).

    Refused: `null_id`, and `contradiction` where a row stands twice with different labels. Raises DataError when the
    file cannot be read, lacks a column, or holds no label at all.
    """
    raw = readers.read(path, {"sample_id": "sample_id", "label": "label"})
    given: defaultdict[str, dict[str, int]] = defaultdict(dict)
    refused, empty = list(raw.dead), 0
    for number, sample_id, label in zip(raw.numbers, raw.columns["sample_id"], raw.columns["label"], strict=True):
        name = cells.name_of(label)
        if name is None:
            empty += 1
        elif (own := cells.name_of(sample_id)) is None:
            refused.append(DeadLetter(path.name, number, "null_id", f"label {name} without a sample_id"))
        else:
            given[own][name] = number
    for own, said in given.items():
        if len(said) > 1:
            refused.append(DeadLetter(path.name, max(said.values()), "contradiction", f"{own}: {', '.join(said)}"))
    labels = {own: next(iter(said)) for own, said in given.items() if len(said) == 1}
    if not labels:
        got = f"{empty} empty rows, {len(refused)} refused"
        raise DataError(f"{path} holds no label", got=got, expected="the column `label` filled in")
    return Sheet(path.name, labels, {own: min(given[own].values()) for own in labels}, refused, empty)


def apply_sheet(samples: pa.Table, sheet: Sheet, classes: Sequence[str] | None = None) -> Applied:
    """`samples` with `label_name`, `response`, `confidence` 1 and `entropy` 0 of every row that a person labelled.

    With `classes` (in the order of their index) `label` is the index, and a label outside them is refused as
    `unknown_label`; None: answers are free text. An id that is not among the samples is refused as `unknown_id`.
    """
    known, refused, good = set(samples["sample_id"].to_pylist()), list(sheet.refused), {}
    for own, label in sheet.labels.items():
        reason, detail = None, ""
        if own not in known:
            reason, detail = "unknown_id", f"{own} is no sample of this run"
        elif classes is not None and label not in classes:
            near = nearest(label, classes)
            reason, detail = "unknown_label", f"{label}" + (f", did you mean {near}?" if near else "")
        if reason is None:
            good[own] = label
        else:
            refused.append(DeadLetter(sheet.file, sheet.rows[own], reason, detail))
    rows = samples.to_pylist()
    for row in rows:
        said = row["sample_id"] in good
        if said:
            label = good[row["sample_id"]]
            index = None if classes is None else list(classes).index(label)
            row |= {"label_name": label, "label": index, "response": label, "confidence": 1.0, "entropy": 0.0}
        row[SOURCE] = "person" if said else "data" if row["label_name"] is not None else None
    own_schema = samples.schema
    if SOURCE not in own_schema.names:
        own_schema = own_schema.append(pa.field(SOURCE, pa.string(), metadata=_ABOUT))
    return Applied(pa.Table.from_pylist(rows, own_schema), sorted(good), refused)


_ABOUT = {"unit": "person or data", "meaning": "who gave the true label; null where there is none"}


def harden(labels: pa.Table, classes: dict[str, int]) -> pa.Table:
    """Soft labels with those of the rows in `classes` (sample_id -> class index) replaced by the class itself.

    Dense [1, V] rows only: log-odds 0 for the class and log((1 - c) / (V - 1) / c) for every other, c = 0.999; the
    entropy follows. Hidden states stay the teacher's: they say what the input is like, not what the answer is.
    Raises MismatchError for a row that is not one dense position or has fewer than two classes.
    """
    rows = labels.to_pylist()
    for row in rows:
        if row["sample_id"] not in classes:
            continue
        width = row["vocabulary"]
        if row["positions"] != 1 or width < 2 or len(row["logits"] or ()) != width:
            got = f"{row['positions']} positions, {len(row['logits'] or ())} logits of {width}"
            raise MismatchError("a person's label needs dense soft labels of one position", got=got,
                                expected="generate.labels.form dense and a task of classes")  # fmt: skip
        other = (1 - CERTAIN) / (width - 1)
        logits = np.full(width, math.log(other / CERTAIN))
        logits[classes[row["sample_id"]]] = 0.0
        entropy = -CERTAIN * math.log(CERTAIN) - (1 - CERTAIN) * math.log(other)
        row |= {"logits": logits.astype(np.float16), "entropy": np.array([entropy], np.float16)}
    return pa.Table.from_pylist(rows, labels.schema)


def with_people(
    recipe: Recipe, samples: pa.Table, labels: pa.Table, folder: Path
) -> tuple[pa.Table, pa.Table, dict[str, Any]]:
    """Samples and soft labels as the recipe's own sheet (`curate.labels`) leaves them, and facts for the manifest.

    Writes `people.parquet` into `folder`: sample_id, label and label_name of every row that changed. Without a sheet
    nothing changes and the facts are {}. Raises DataError as `read_sheet`, MismatchError as `harden`.
    """
    if recipe.curate.labels is None:
        return samples, labels, {}
    from jobs import tasks

    applied = apply_sheet(samples, read_sheet(Path(recipe.curate.labels).expanduser()), tasks.of(recipe).classes)
    wanted = set(applied.changed)
    rows = applied.samples.select(["sample_id", "label", "label_name"]).to_pylist()
    own = pa.schema([schema.schema("samples").field(name) for name in ("sample_id", "label", "label_name")])
    people = pa.Table.from_pylist([row for row in rows if row["sample_id"] in wanted], own)
    pq.write_table(people, folder / PEOPLE)
    refused = [{"row": one.row, "reason": one.reason, "detail": one.detail} for one in applied.refused]
    return applied.samples, overlay_labels(labels, folder), {"people": {"labelled": len(wanted), "refused": refused}}


def check(recipe: Recipe) -> None:
    """Refuse a sheet before anything has run: one that cannot be read, or a task whose answers are no classes.

    Raises DataError, RecipeError. A soft label can be made certain for a class, not for a text.
    """
    if recipe.curate.labels is None:
        return
    from jobs import tasks

    if tasks.of(recipe).classes is None:
        raise RecipeError("curate.labels: the task's answers are no classes", got=recipe.task, expected="null")
    read_sheet(Path(recipe.curate.labels).expanduser())


def identity(recipe: Recipe) -> dict[str, Any]:
    """What of the sheet decides the curated set's id: the sha256 of its bytes; {} where there is none."""
    if recipe.curate.labels is None:
        return {}
    return {"sheet": tabular.sha256(Path(recipe.curate.labels).expanduser())}


def overlay_samples(samples: pa.Table, curated: Path) -> pa.Table:
    """Samples as people's labels (`people.parquet` in the curated artifact) leave them; the same without that file."""
    people = _people(curated)
    rows = samples.to_pylist() if people else []
    for row in rows:
        if row["sample_id"] in people:
            said = people[row["sample_id"]]
            row.update(said, response=said["label_name"], confidence=1.0, entropy=0.0)
    return pa.Table.from_pylist(rows, samples.schema) if people else samples


def overlay_labels(labels: pa.Table, curated: Path) -> pa.Table:
    """Soft labels as people's labels leave them; the same without them. Raises MismatchError as `harden`."""
    classes = {own: row["label"] for own, row in _people(curated).items()}
    return harden(labels, classes) if classes else labels


def _people(curated: Path) -> dict[str, dict[str, Any]]:
    path = curated / PEOPLE
    return {row["sample_id"]: row for row in pq.read_table(path).to_pylist()} if path.is_file() else {}
