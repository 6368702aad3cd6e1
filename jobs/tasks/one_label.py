"""What tasks of rows with one label each have in common: their classes, which rows a teacher is fitted on, their score.

Their soft labels are dense over the classes, and their networks keep no keys and values.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from torch import nn

from cluster.errors import MismatchError, RecipeError
from cluster.recipe import Recipe
from jobs.data import tabular
from jobs.training.table import Columns

SLICE = "all"


class OneLabel(ABC):
    """The part of `jobs.tasks.Task` that does not depend on what a row shows."""

    slices: Sequence[str] = (SLICE,)
    network: ClassVar[str]  # what messages call it
    media: Sequence[str] = ("text",)
    continuable = True

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.hidden_layer = recipe.generate.hidden_layer
        self._saved: dict[str, Any] | None = None

    @property
    @abstractmethod
    def rows(self) -> tabular.Labelled:
        """Classes, splits and rows set aside of the recipe's data."""

    @property
    @abstractmethod
    def told_by_rows(self) -> dict[str, Any]:
        """`spec`, from the recipe's data."""

    @property
    def spec(self) -> dict[str, Any]:
        """What answering needs beside the weights (`task.json`, and the ground of a bundle's `bundle.json`)."""
        return self.told_by_rows if self._saved is None else self._saved

    def trust(self, folder: Path) -> None:
        """Take `spec` from a folder that this task saved: nothing that training asks for is read from the data then."""
        self._saved = json.loads((folder / "task.json").read_text())

    @property
    def classes(self) -> Sequence[str]:
        """See `Task.classes`."""
        return self.rows.classes

    def word_runs(self, word: str) -> list[list[int]]:
        """See `jobs.tasks.Worded`: a class is its own only word."""
        labels = list(self.spec["labels"])
        return [[labels.index(word)]] if word in labels else []

    @property
    def sample_seed(self) -> int:
        """Seed of what the teacher is asked."""
        return self.recipe.seed + self.recipe.generate.seed

    def dead_letters(self) -> list[dict[str, Any]]:
        """See `Task.dead_letters`."""
        return tabular.dead_letters(self.rows)

    def fit_rows(self) -> tabular.Rows:
        """The labelled rows that the teacher is fitted on: `fit.samples` of them, drawn by the recipe's seed."""
        rows, count = self.rows.splits["train"], self.recipe.fit.samples
        if count and count < len(rows.inputs):
            chosen = np.random.default_rng([self.recipe.seed, count]).permutation(len(rows.inputs))[:count]
            rows = rows.take(np.sort(chosen))
        return rows

    def kv_bytes(self, network: nn.Module) -> int:
        """See `Task.kv_bytes`: nothing is kept."""
        return 0

    def merge_kv(self, network: nn.Module, heads: int) -> nn.Module:
        """See `Task.merge_kv`; `check` refuses a recipe that asks for it."""
        raise RecipeError(f"kv_heads: {self.network} has no key/value cache", got=heads, expected="null")

    def positions(self, columns: Columns, rows: np.ndarray) -> int:
        """See `Task.positions`: one per row."""
        return len(rows)


def true_classes(samples: pa.Table) -> np.ndarray:
    """The rows' true labels int [R]. Raises MismatchError where one has none."""
    if samples["label"].null_count:
        raise MismatchError("rows without a true label", got=f"{samples['label'].null_count} rows", expected="none")
    labels: np.ndarray = samples["label"].to_numpy()
    return labels


def scores(truth_R: np.ndarray, given_R: np.ndarray) -> dict[str, float]:
    """`accuracy` and `macro_f1` (classes that do not occur in `truth_R` are left out), both 0 to 1."""
    size = int(max(truth_R.max(), given_R.max())) + 1
    hits, true, said = (np.bincount(part, minlength=size) for part in (truth_R[truth_R == given_R], truth_R, given_R))
    f1 = 2 * hits[true > 0] / (true + said)[true > 0]
    return {"accuracy": float((truth_R == given_R).mean()), "macro_f1": float(f1.mean())}
