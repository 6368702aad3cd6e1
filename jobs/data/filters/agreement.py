"""Drops rows whose answer contradicts the known true label; rows without a label pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cluster.recipe.base import Section

if TYPE_CHECKING:
    from jobs.data.filters import Rows


class Params(Section):
    """No parameters."""


def agreement(rows: Rows, params: Params) -> Sequence[str | None]:
    """ "wrong_answer" where the teacher's response is not the true label."""
    truth, given = rows.samples["label_name"].to_pylist(), rows.samples["response"].to_pylist()
    return ["wrong_answer" if t is not None and t != g else None for t, g in zip(truth, given, strict=True)]
