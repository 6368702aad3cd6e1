"""Drops exact repeats: same question (case and spaces folded) over the same pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cluster.recipe.base import Section

if TYPE_CHECKING:
    from jobs.data.filters import Rows


class Params(Section):
    """No parameters."""


def duplicate(rows: Rows, params: Params) -> Sequence[str | None]:
    """ "duplicate" for every row but the first (in `sample_id` order) of those that are alike."""
    seen: set[bytes] = set()
    reasons: list[str | None] = []
    for row in rows.samples.select(["prompt", "images"]).to_pylist():
        key = hashlib.sha256(" ".join(row["prompt"].lower().split()).encode())
        for image in row["images"] or ():
            key.update(hashlib.sha256(image).digest())
        reasons.append("duplicate" if key.digest() in seen else None)
        seen.add(key.digest())
    return reasons
