"""The test rows every model answers: the same items in the same order, with the truth and the groups to report by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from cluster.errors import DataError
from jobs.data import items

COLUMNS = ("ids", "items", "truth", "slices")
PICTURES = {1: "one_picture", 2: "two_pictures"}


@dataclass(frozen=True)
class Exam:
    """R labelled requests: `items` as engines take them, `truth` as text, `slices` to draw bars by, and `groups`
    (name -> bool [R]) whose metrics stand beside the primary one."""

    ids: Sequence[str]
    items: Sequence[Mapping[str, Any]]
    truth: Sequence[str]
    slices: Sequence[str]
    groups: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, places: Sequence[int]) -> Exam:
        """The rows at these places, in this order."""
        columns = {name: [getattr(self, name)[place] for place in places] for name in COLUMNS}
        return Exam(**columns, groups={name: own[list(places)] for name, own in self.groups.items()})


def of(requests: pa.Table, max_rows: int | None, seed: int) -> Exam:
    """The exam of a request table (`cluster.schema` "requests"), or of `max_rows` of it, chosen by `seed`.

    Where all rows share one slice (texts), bars are drawn by true class. Raises DataError when no row has a label.
    """
    columns = requests.select(["sample_id", *items.COLUMNS, "label_name", "slice"])
    rows = [row for row in columns.to_pylist() if row["label_name"] is not None]
    if not rows:
        raise DataError(
            "the test split has no labelled row",
            got=f"{requests.num_rows} rows",
            expected="true labels to score against",
        )
    if max_rows is not None and max_rows < len(rows):
        chosen = np.sort(np.random.default_rng([seed, max_rows]).permutation(len(rows))[:max_rows])
        rows = [rows[row] for row in chosen]
    pictures = np.array([len(row["images"] or ()) for row in rows])
    groups = {name: pictures == count for count, name in PICTURES.items() if 0 < (pictures == count).sum() < len(rows)}
    # Bars by true class, where rows have classes: true texts are all different.
    one_slice = len({row["slice"] for row in rows}) == 1 and len({row["label_name"] for row in rows}) < len(rows)
    return Exam(
        ids=[row["sample_id"] for row in rows],
        items=[items.item_of(row) for row in rows],
        truth=[row["label_name"] for row in rows],
        slices=[row["label_name" if one_slice else "slice"] for row in rows],
        groups=groups,
    )
