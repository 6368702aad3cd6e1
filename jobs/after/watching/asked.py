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
from jobs.data.items import COLUMNS
from jobs.data.judging import EVALUATED
from jobs.tasks import Pictured, Task
from serving.bundle import sounds

ORIGIN = "traffic"  # the `template` of a mined request


def mined(recipe: Recipe, task: Task, own: pa.Table, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Requests of mined rows with the column `reference`, each once, in their order; `own` are the task's.

    Left out is what shows a picture, sound or frame (without any: the text) of a validation or test row. A true answer
    that is none of the task's classes counts as not known; the slice is that of the task's rows with the same question.
    """
    evaluated = [row for split in EVALUATED for row in task.requests(split).select([*COLUMNS]).to_pylist()]
    forbidden = {key for row in evaluated for key in _keys(row | _media(task, row))}
    slice_of, found = _Slices(own), dict[tuple[Any, ...], dict[str, Any]]()
    for number, row in enumerate(rows):
        shown = {"prompt": row["prompt"]} | _media(task, row)
        if not forbidden.isdisjoint(_keys(shown)):
            continue
        made = _request(recipe, shown, number) | _truth(task, row["label"])
        made |= {"slice": slice_of(shown), "reference": row["reference"]}
        found.setdefault((cells.folded(row["prompt"]), *_keys(shown)), made)
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
    return own.take(np.sort(np.concatenate(chosen))) if chosen else own.slice(0, 0)


class _Slices:
    """The slice that a request belongs to: the commonest of the task's requests with the same question and kinds of
    media, else of those with these media, else of all."""

    def __init__(self, own: pa.Table) -> None:
        self._known: defaultdict[Any, Counter[str]] = defaultdict(Counter)
        for row in own.select([*COLUMNS, "slice"]).to_pylist():
            for key in self._likeness(row):
                self._known[key][row["slice"]] += 1

    def __call__(self, row: Mapping[str, Any]) -> str:
        return next(self._known[key].most_common(1)[0][0] for key in self._likeness(row) if key in self._known)

    def _likeness(self, row: Mapping[str, Any]) -> list[Any]:
        """What rows of a slice have in common, the closest likeness first."""
        media = len(row["images"] or ()), row["audio"] is not None, bool(row["frames"])
        return [(cells.folded(row["prompt"]), *media), media, None]


def _request(recipe: Recipe, shown: Mapping[str, Any], number: int) -> dict[str, Any]:
    temperature, seed = recipe.generate.temperature, recipe.seed + recipe.generate.seed
    pictured = bool(shown["images"] or shown["frames"])
    keys = [one if isinstance(one, str) else one.hex() for one in _keys(shown)]
    identity = [shown["prompt"], keys, shown["fps"], ORIGIN, temperature, seed]
    return {
        **shown, "sample_id": digest(identity)[:16], "split": "train", "template": ORIGIN,
        "image_format": "png" if pictured else None, "seed_row": -1 - number, "view": 0, "draw": 0,
        "temperature": temperature, "seed": seed,
    }  # fmt: skip


def _truth(task: Task, label: str | None) -> dict[str, Any]:
    if label is None or task.classes is None:
        return {"label_name": label}
    classes = list(task.classes)
    return {"label": classes.index(label), "label_name": label} if label in classes else {}


def _media(task: Task, row: Mapping[str, Any]) -> dict[str, Any]:
    """A row's media, each written the same way whatever file it came in; null where there are none."""
    audio = None if row["audio"] is None else sounds.wav(*sounds.read_wav(row["audio"]))
    pictures = {name: [_picture(task, data) for data in row[name] or ()] or None for name in ("images", "frames")}
    return {**pictures, "audio": audio, "fps": row["fps"] if row["frames"] else None}


def _keys(shown: Mapping[str, Any]) -> list[bytes | str]:
    """Every picture, sound and frame of a row as `_media` writes it; the text of a row without any."""
    media = [*(shown["images"] or ()), *(shown["frames"] or ()), *([shown["audio"]] if shown["audio"] else ())]
    return media or [cells.folded(shown["prompt"])]


def _picture(task: Task, data: bytes) -> bytes:
    """A picture as the task's networks see it, as PNG: the same for every file that they cannot tell from it."""
    assert isinstance(task, Pictured)
    pixels = task.picture(data)
    return augment.encoded(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
