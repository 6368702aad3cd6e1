"""What a quantized student is tried on before it is chosen: validation rows, never the test split.

Shape legend: A answer positions, V vocabulary or classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from cluster.errors import DataError
from cluster.recipe import Recipe
from jobs import tasks
from jobs.data.items import COLUMNS, item_of
from jobs.measure.metrics import PRIMARY

Array = np.ndarray[Any, Any]
ROWS = 256  # answers: agreement is read to 0.4 %
TEXTS = 16  # of a language model: every token of a row is compared, over the whole vocabulary


@dataclass(frozen=True)
class Taken:
    """What a student made of the exam: its `metric` (0 to 1, higher is better), what it `said` per row or token, and
    the logits float32 [A, V] behind it."""

    metric: float
    said: Sequence[Any]
    logits: Sequence[Array]


class Exam(Protocol):
    """Rows to be answered."""

    metric: str

    def __len__(self) -> int:
        """Rows."""

    def take(self, student: Any) -> Taken:
        """Ask a loaded bundle, one row at a time, as a server does that never pads."""


class Answers:
    """Requests with one right answer each."""

    def __init__(self, items: Sequence[Mapping[str, Any]], truth: Sequence[str], metric: str) -> None:
        self.items, self.truth, self.metric = items, truth, metric

    def __len__(self) -> int:
        return len(self.items)

    def take(self, student: Any) -> Taken:
        """See `Exam`."""
        said = [student.predict([item])[0].text for item in self.items]
        right = np.mean([one == true for one, true in zip(said, self.truth, strict=True)])
        return Taken(float(right), said, [student.logits([item])[0] for item in self.items])


class Tokens:
    """Texts, of which every next token is asked for given the true ones before."""

    def __init__(self, pairs: Sequence[tuple[Array, Array]], metric: str) -> None:
        self.pairs, self.metric = pairs, metric

    def __len__(self) -> int:
        return len(self.pairs)

    def take(self, student: Any) -> Taken:
        """See `Exam`; the metric is exp(mean log-probability of the true tokens)."""
        logits = [student.scored([pair])[0] for pair in self.pairs]
        told: list[Array] = []
        for logits_AV, (_, ids_A) in zip(logits, self.pairs, strict=True):
            shifted_AV = (logits_AV - logits_AV.max(-1, keepdims=True)).astype(np.float64)
            told.append(shifted_AV[np.arange(len(ids_A)), ids_A] - np.log(np.exp(shifted_AV).sum(-1)))
        said = [token for logits_AV in logits for token in logits_AV.argmax(-1).tolist()]
        return Taken(float(np.exp(np.concatenate(told).mean())), said, logits)


def of(recipe: Recipe) -> Exam:
    """The recipe's validation rows that have a true answer, spread over the split. Raises DataError: there are none."""
    task: Any = tasks.of(recipe)
    rows = task.requests("validation").select([*COLUMNS, "label_name"]).to_pylist()
    rows = [row for row in rows if row["label_name"] is not None]
    if not rows:
        raise DataError("the validation split has no labelled row", got="0 rows", expected="rows to try INT8 on")
    written = recipe.task == "text_generation"
    count = min(len(rows), TEXTS if written else ROWS)
    rows = [rows[row] for row in np.unique(np.linspace(0, len(rows) - 1, count).astype(int))]
    metric, truth = PRIMARY[recipe.task], [row["label_name"] for row in rows]
    if written:
        contexts = task.contexts([row["prompt"] for row in rows])
        return Tokens(list(zip(contexts, task.answers(truth), strict=True)), metric)
    return Answers([item_of(row) for row in rows], truth, metric)
