"""Whether a bundle's answers depend on the rows beside them: measured, never assumed, because kernels differ by CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

BATCHES = (2, 3, 8, 32)  # rows per call; odd and even take different kernels


class Scorer(Protocol):
    """An opened bundle."""

    def logits(self, items: Sequence[Mapping[str, Any]]) -> list[np.ndarray]:
        """Logits float32 [A, V] of each item."""


def batch_invariant(scorer: Scorer, items: Sequence[Mapping[str, Any]]) -> bool:
    """True when every row has the same bits alone and in batches of 2 to 32, in two orders of the rows."""
    alone = [scorer.logits([item])[0] for item in items]
    for order in (np.arange(len(items)), np.random.default_rng(0).permutation(len(items))):
        for size in BATCHES:
            for start in range(0, len(order), size):
                rows = order[start : start + size].tolist()
                together = scorer.logits([items[row] for row in rows])
                if not all(np.array_equal(alone[row], own) for row, own in zip(rows, together, strict=True)):
                    return False
    return True
