"""What a round asks the teacher where rows are more than texts: mined requests, and old ones of every class or slice.

They are requests like those a task makes of its rows (`generate.requests`), so that the recipe's data, and with it the
validation and test rows, its words and classes, stay what they are.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from cluster import schema
from cluster.canonical import digest
from cluster.recipe import Recipe
from jobs import tasks
from jobs.data import augment, cells
from jobs.tasks import Pictured, Task

ORIGIN = "traffic"  # the `template` of a mined request


def mined(recipe: Recipe, task: Task, own: pa.Table, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Requests of mined rows with the column `reference`, each once, in their order; `own` are the task's.

    Left out is what shows a picture (without pictures: the text) of a validation or test row. A true answer that is
    none of the task's classes counts as not known; the slice is that of the task's rows with the same question.
    """
    forbidden = {key for split in ("validation", "test") for key in _shown(task, task.requests(split))}
    slice_of, found = _Slices(own), dict[tuple[Any, ...], dict[str, Any]]()
    for number, row in enumerate(rows):
        images = [_picture(task, data) for data in row["images"] or ()]
        if not forbidden.isdisjoint(images or [cells.folded(row["prompt"])]):
            continue
        made = _request(recipe, row, images, number) | _truth(task, row["label"])
        made |= {"slice": slice_of(row["prompt"], len(images)), "reference": row["reference"]}
        found.setdefault((cells.folded(row["prompt"]), *images), made)
    columns = pa.schema([*schema.schema("requests"), pa.field("reference", pa.string())])
    return pa.Table.from_pylist(list(found.values()), schema=columns)


def own_requests(recipe: Recipe) -> pa.Table:
    """The requests that the recipe's task makes of its training rows, but those that are views of others."""
    plain = recipe.generate.model_copy(update={"augment": [], "requests": None})
    table = tasks.of(recipe.model_copy(update={"generate": plain})).requests("train")
    return table.filter(pa.array([parent is None for parent in table["parent"].to_pylist()], pa.bool_()))


def old(recipe: Recipe, task: Task, own: pa.Table) -> pa.Table:
    """`watch.old_rows` of every class, or slice where answers are texts, of the task's `own` requests whose true answer
    is known: what the control arm learns from, too."""
    group = "slice" if task.classes is None else "label_name"
    places = defaultdict(list)
    for place, (name, truth) in enumerate(zip(own[group].to_pylist(), own["label_name"].to_pylist(), strict=True)):
        if truth is not None:
            places[name].append(place)
    rng = np.random.default_rng([recipe.seed, len(own)])
    chosen = [rng.permutation(places[name])[: recipe.watch.old_rows] for name in sorted(places)]
    return own.take(np.sort(np.concatenate(chosen)) if chosen else [])


class _Slices:
    """The slice that a request belongs to: of the task's requests with the same question the commonest, else of those
    with as many pictures, else of all."""

    def __init__(self, own: pa.Table) -> None:
        self._known: defaultdict[Any, Counter[str]] = defaultdict(Counter)
        for row in own.select(["prompt", "images", "slice"]).to_pylist():
            for key in (cells.folded(row["prompt"]), len(row["images"] or ()), None):
                self._known[key][row["slice"]] += 1

    def __call__(self, prompt: str, pictures: int) -> str:
        keys = (cells.folded(prompt), pictures, None)
        return next(self._known[key].most_common(1)[0][0] for key in keys if key in self._known)


def _request(recipe: Recipe, row: Mapping[str, Any], images: Sequence[bytes], number: int) -> dict[str, Any]:
    temperature, seed = recipe.generate.temperature, recipe.seed + recipe.generate.seed
    identity = [row["prompt"], [one.hex() for one in images], ORIGIN, temperature, seed]
    return {
        "sample_id": digest(identity)[:16], "split": "train", "template": ORIGIN, "prompt": row["prompt"],
        "images": list(images) or None, "image_format": "png" if images else None, "seed_row": -1 - number, "view": 0,
        "draw": 0, "temperature": temperature, "seed": seed,
    }  # fmt: skip


def _truth(task: Task, label: str | None) -> dict[str, Any]:
    if label is None or task.classes is None:
        return {"label_name": label}
    classes = list(task.classes)
    return {"label": classes.index(label), "label_name": label} if label in classes else {}


def _shown(task: Task, requests: pa.Table) -> set[bytes | str]:
    """The pictures of requests, as `_picture` has them, and the texts of those without."""
    out = set[bytes | str]()
    for row in requests.select(["prompt", "images"]).to_pylist():
        out |= {_picture(task, data) for data in row["images"]} if row["images"] else {cells.folded(row["prompt"])}
    return out


def _picture(task: Task, data: bytes) -> bytes:
    """A picture as the task's networks see it, as PNG: the same for every file that they cannot tell from it."""
    assert isinstance(task, Pictured)
    pixels = task.picture(data)
    return augment.encoded(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
