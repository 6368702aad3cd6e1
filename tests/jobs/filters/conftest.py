"""Samples in a line: prompts with whatever else a filter reads."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cluster import schema
from jobs.data.filters import Rows

FILLED: dict[str, Any] = {
    "split": "train", "slice": "all", "prompt": "", "view": 0, "draw": 0, "temperature": 0.0, "seed": 0, "seed_row": 0,
    "response": "yes", "confidence": 0.9, "entropy": 0.1, "status": "ok", "teacher": "here", "attempts": 1,
}  # fmt: skip


@pytest.fixture
def make_rows() -> Callable[..., Rows]:
    """Rows of these prompts; further columns as lists by name, embeddings as `unit`, requests as `evaluation`."""

    def make(prompts: Sequence[str], unit: np.ndarray | None = None, **columns: Any) -> Rows:
        evaluation = columns.pop("evaluation", {})
        probabilities, seed = columns.pop("probabilities", None), columns.pop("seed", 0)
        values = {name: [value] * len(prompts) for name, value in FILLED.items()} | {"prompt": list(prompts)} | columns
        values = {"sample_id": [f"{place:016x}" for place in range(len(prompts))]} | values
        fields = schema.schema("samples")
        given = pa.table({name: pa.array(own, fields.field(name).type) for name, own in values.items()})
        unit = np.eye(max(1, len(prompts)), dtype=np.float32)[: len(prompts)] if unit is None else unit
        asked = {split: make(texts).samples for split, texts in evaluation.items()}
        return Rows(schema.conform(given, "samples"), unit, probabilities, asked, seed)

    return make
