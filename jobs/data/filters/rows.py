"""What a curation filter reads and what it answers: rows still kept in, per row a reason or None and a score out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa


@dataclass(frozen=True)
class Rows:
    """What a filter may read of the samples still kept.

    `embeddings` are unit vectors float32 [R, E]; `probabilities` the teacher's class probabilities float32 [R, C]
    where its answers are classes; `evaluation` the requests (`cluster.schema` "requests") of every evaluation split;
    `seed` feeds what is random; `spent` is a folder in which a paid model notes what it has cost (null: nowhere).
    """

    samples: pa.Table
    embeddings: np.ndarray
    probabilities: np.ndarray | None = None
    evaluation: Mapping[str, pa.Table] = field(default_factory=dict)
    seed: int = 0
    spent: Path | None = None

    def take(self, places: np.ndarray) -> Rows:
        """The rows at `places` int64, in that order."""
        own = None if self.probabilities is None else self.probabilities[places]
        return replace(self, samples=self.samples.take(places), embeddings=self.embeddings[places], probabilities=own)

    def origins(self) -> list[str]:
        """Per row the `sample_id` it is a view of; its own where it is no view or the table knows no views."""
        ids = self.samples["sample_id"].to_pylist()
        parents = self.samples["parent"].to_pylist() if "parent" in self.samples.column_names else [None] * len(ids)
        return [parent or own for parent, own in zip(parents, ids, strict=True)]


@dataclass(frozen=True)
class Verdicts:
    """A filter's answer, row by row: `reasons` (None: kept), `scores` float64 [R] in the filter's own unit (NaN: none),
    and `twins`, the `sample_id` of the row that a refused one repeats or comes too near to (None: no such row)."""

    reasons: Sequence[str | None]
    scores: np.ndarray
    twins: Sequence[str | None] | None = None


def unscored(reasons: Sequence[str | None]) -> Verdicts:
    """Verdicts of a rule that measures nothing."""
    return Verdicts(reasons, np.full(len(reasons), np.nan))
