"""Every logit of a position: any temperature is exact up to float16's rounding; for classes and small vocabularies."""

from __future__ import annotations

from typing import Any

import numpy as np

from cluster.recipe.labels import LabelsSection

Array = np.ndarray[Any, Any]


def pack(relative_PV: Array, settings: LabelsSection, rng: np.random.Generator) -> dict[str, Any]:
    """`logits` float16 [P x V], row-major, minus the largest of their position; draws nothing."""
    return {"logits": relative_PV.astype(np.float16).reshape(-1)}
