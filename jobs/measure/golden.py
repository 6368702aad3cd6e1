"""Key samples whose answers must not change: the same validation rows every time, kept beside the report.

They are chosen by data and seed alone, never by a model, so that any two models can be asked about the same ones.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from cluster.measured import STUDENT, STUDENT_INT8
from jobs.measure.exam import Exam


def chosen(rows: Exam, count: int, seed: int) -> Exam:
    """`count` rows of an exam, taken in turn from every slice (classes, where all rows share one slice), seeded."""
    rng, queues = np.random.default_rng([seed, count]), defaultdict(list)
    for place in rng.permutation(len(rows)).tolist():
        queues[rows.slices[place]].append(place)
    turns = sorted((turn, name, place) for name, own in queues.items() for turn, place in enumerate(own))
    kept = sorted(place for _, _, place in turns[:count])
    return rows.take(kept)


def table(rows: Exam, answers: Mapping[str, Sequence[str]]) -> pa.Table:
    """What is stored: sample_id, text, slice, truth and each model's answer."""
    texts = [item["text"] for item in rows.items]
    return pa.table({"sample_id": rows.ids, "text": texts, "slice": rows.slices, "truth": rows.truth, **answers})


def measure(truth: Sequence[Any], answers: Mapping[str, Sequence[Any]]) -> dict[str, float | None]:
    """`with_float` and `with_champion` (None without one): shares of golden answers of the INT8 student that are those
    of the others; `right`: share that are the truth."""
    own = answers[STUDENT_INT8]
    return {
        "with_float": _same(own, answers[STUDENT]),
        "with_champion": _same(own, answers["champion"]) if "champion" in answers else None,
        "right": _same(own, truth),
    }


def _same(one: Sequence[Any], other: Sequence[Any]) -> float:
    return float(np.mean([a == b for a, b in zip(one, other, strict=True)]))
