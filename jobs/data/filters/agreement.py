"""Drops rows whose answer contradicts the known true label; rows without a label pass."""

from __future__ import annotations

from cluster.recipe.base import Section
from jobs.data.filters.rows import Rows, Verdicts, unscored


class Params(Section):
    """No parameters."""


def agreement(rows: Rows, params: Params) -> Verdicts:
    """ "wrong_answer" where the teacher's response is not the true label."""
    truth, given = rows.samples["label_name"].to_pylist(), rows.samples["response"].to_pylist()
    return unscored(["wrong_answer" if t is not None and t != g else None for t, g in zip(truth, given, strict=True)])
