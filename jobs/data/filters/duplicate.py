"""Drops exact repeats: same question (case and spaces folded) over the same pictures."""

from __future__ import annotations

from cluster.recipe.base import Section
from jobs.data.filters import words
from jobs.data.filters.rows import Rows, Verdicts, unscored


class Params(Section):
    """No parameters."""


def duplicate(rows: Rows, params: Params) -> Verdicts:
    """ "duplicate" for every row but the first (in `sample_id` order) of those that are alike, which is their twin."""
    seen: dict[bytes, str] = {}
    twins: list[str | None] = []
    for key, sample_id in zip(words.input_keys(rows.samples), rows.samples["sample_id"].to_pylist(), strict=True):
        first = seen.setdefault(key, sample_id)
        twins.append(None if first == sample_id else first)
    reasons = [None if twin is None else "duplicate" for twin in twins]
    return Verdicts(reasons, unscored(reasons).scores, twins)
