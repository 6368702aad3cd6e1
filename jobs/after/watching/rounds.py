"""The next round's rows and recipe: the champion continued on what failed, with old rows beside it.

The rows are an artifact, so that the recipe names files that do not move, and a killed round goes on where it was.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from cluster import schema
from cluster.canonical import digest
from cluster.errors import StepFailed
from cluster.recipe import Recipe
from cluster.store import Artifact, Store, artifact_id
from jobs import tasks
from jobs.after.watching import asked
from jobs.after.watching.mining import Mined
from jobs.data.filters import FILTERS, Gate
from jobs.data.items import COLUMNS
from jobs.tasks import Task
from jobs.tasks.text_classification import TextClassification

KIND, VERSION = "round", 2
SPLITS = {"train": "train.parquet", "validation": "validation.parquet", "test": "test.parquet"}
REQUESTS, HELD_OUT = "requests.parquet", "held_out.parquet"
RECIPE, FOUND = "recipe.yaml", "diff.json"


def build(store: Store, recipe: Recipe, mined: Mined, continued: str, because: str) -> Artifact:
    """The round's artifact: `recipe.yaml` (run it with `jobs run`), `diff.json`, and the rows it names: for texts with
    a class tables of rows, else requests.

    `continued` is the run or MODEL@ALIAS it starts from, `because` the verdict's id. Raises StepFailed when nothing
    was mined that may be learned from.
    """
    ids = [row["request_id"] for row in mined.rows]
    section = {"recipe": recipe.fingerprint(), "continued": continued, "because": because, "rows": digest(ids)}
    aid = artifact_id(KIND, section, {}, VERSION)
    with store.draft(KIND, aid, section=section, parents={}, step_version=VERSION) as draft:
        if not draft.done:
            out, values = draft.path, recipe.model_dump(mode="json", by_alias=True)
            task = tasks.of(recipe)
            if type(task) is TextClassification:
                learned = _write_rows(recipe, task, mined.rows, out)
                values["data"] |= SPLITS
                values["data"] |= {"text_column": "text", "label_column": "label", "label_name_column": "label_name"}
                values["data"] |= {"max_rows": None, "classes": None}
            else:
                learned = _write_requests(recipe, task, mined.rows, out)
                values["generate"]["requests"] = REQUESTS
            if not learned:
                reason = f"none of the {len(ids)} requests that were mined can be learned from"
                raise StepFailed("watch", reason, "what validation or test rows show is left out; the rest is too few")
            _continue(values, recipe, continued, mined)
            (out / FOUND).write_text(json.dumps(mined.document, indent=1))
            (out / RECIPE).write_text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
            draft.note(mined=len(ids), learned=learned, continued=continued, because=because)
    return draft.artifact


def recipe_of(round_: Artifact) -> Recipe:
    """The round's recipe, its files below the artifact's folder."""
    folder = round_.path()
    values = yaml.safe_load((folder / RECIPE).read_text())
    for split, name in SPLITS.items():
        if values["data"][split] == name:
            values["data"][split] = str(folder / name)
    if values["generate"]["requests"] == REQUESTS:
        values["generate"]["requests"] = str(folder / REQUESTS)
    return Recipe.parse(values, source=f"round {round_.id}")


def held_out(round_: Artifact) -> list[dict[str, Any]]:
    """Rows of the failing slices that the round does not learn from: what a request shows (`jobs.data.items`) and
    `reference`, the right answer; [] where there are none."""
    path = round_.path() / HELD_OUT
    return list(pq.read_table(path).to_pylist()) if path.is_file() else []


def _continue(values: dict[str, Any], recipe: Recipe, continued: str, mined: Mined) -> None:
    """Start from the champion, replay its samples, and ask for further views of the slices that stood out."""
    values["distill"] |= {"continue_from": continued, "replay_share": recipe.watch.replay_share}
    values["distill"]["replay_except"] = [*recipe.distill.replay_except, *_failed(mined)]
    values["promote"] |= {"alias": "challenger"}
    repairs = [one["repair"] for one in mined.document["slices"] if one["repair"] is not None]
    known = len(recipe.generate.augment)
    terms = [term for repair in repairs[:3] for term in repair["generate"]["augment"][known:]]
    values["generate"]["augment"] = [*values["generate"]["augment"], *terms]
    # All rows of the round are meant, and at once; they are alike, as what failed is: no gate over them as a set.
    values["generate"] |= {"samples": 0, "rounds": 1}
    filters = [term for term in values["curate"]["filters"] if not isinstance(FILTERS[term["name"]], Gate)]
    values["curate"]["filters"] = filters


def _failed(mined: Mined) -> list[dict[str, Any]]:
    """What of the champion's own samples is not replayed: they may be what taught it the mistake. Of a label pair both
    classes, since rows of the one are found under the other."""
    found = [
        {"label_name": one["pair"]} if one["pair"] is not None else one["where"] for one in mined.document["slices"]
    ]
    return [where for where in found if where]


def _write_requests(recipe: Recipe, task: Task, rows: Sequence[Mapping[str, Any]], out: Path) -> int:
    """Mined requests (a share held out) behind old ones of every class or slice; returns how many are learned from."""
    own = asked.own_requests(recipe)
    found = asked.mined(recipe, task, own, rows)
    order = np.random.default_rng([recipe.seed, len(rows)]).permutation(len(found))
    aside = int(recipe.watch.held_out * len(found))
    learned = found.take(np.sort(order[aside:]))
    table = pa.concat_tables([asked.old(recipe, task, own), learned.drop_columns(["reference"])])
    pq.write_table(schema.conform(table, "requests"), out / REQUESTS)
    pq.write_table(found.take(np.sort(order[:aside])).select([*COLUMNS, "reference"]), out / HELD_OUT)
    return len(learned)


def _write_rows(recipe: Recipe, task: TextClassification, rows: Sequence[Mapping[str, Any]], out: Path) -> int:
    """Mined rows (a share held out) behind `watch.old_rows` of every class; validation and test as they were.

    Labels are written as the recipe's class indices, so that classes keep their order whatever their names. Returns how
    many mined rows are learned from.
    """
    rng, splits = np.random.default_rng([recipe.seed, len(rows)]), task.rows.splits
    place_of = {name: place for place, name in enumerate(task.rows.classes)}
    forbidden = {text for split in ("test", "validation") for text in splits[split].inputs}
    own = [row for row in {row["prompt"]: row for row in rows}.values() if row["prompt"] not in forbidden]
    order = rng.permutation(len(own))
    aside = set(order[: int(recipe.watch.held_out * len(own))].tolist())
    train = splits["train"]
    chosen = [
        place
        for label in range(len(place_of))
        for place in rng.permutation(np.flatnonzero(train.labels == label))[: recipe.watch.old_rows].tolist()
    ]
    mined = [(row["prompt"], place_of.get(row["label"])) for place, row in enumerate(own) if place not in aside]
    old = [(train.inputs[place], int(train.labels[place])) for place in chosen]
    _write(out / SPLITS["train"], [*old, *mined], task.rows.classes)
    for split in ("validation", "test"):
        known = zip(splits[split].inputs, splits[split].labels.tolist(), strict=True)
        _write(out / SPLITS[split], list(known), task.rows.classes)
    tested = [own[place] for place in sorted(aside)]
    kinds = pa.schema([*(schema.schema("requests").field(name) for name in COLUMNS), ("reference", pa.string())])
    shown = [{"prompt": row["prompt"], "reference": row["reference"]} for row in tested]
    pq.write_table(pa.Table.from_pylist(shown, schema=kinds), out / HELD_OUT)
    return len(mined)


def _write(path: Path, rows: Sequence[tuple[str, int | None]], classes: Sequence[str]) -> None:
    """Texts with class index and name; both null for a row that only the teacher is to label."""
    columns = {
        "text": pa.array([text for text, _ in rows], pa.string()),
        "label": pa.array([label for _, label in rows], pa.int64()),
        "label_name": pa.array([None if label is None else classes[label] for _, label in rows], pa.string()),
    }
    pq.write_table(pa.table(columns), path)
