"""Whether a bundle computes what torch does, on real rows.

Shape legend: A answer positions, V vocabulary or classes.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cluster.errors import StepFailed
from jobs.data.items import item_of
from serving.bundle import predict

DIFFERENCE_MAX = 1e-4  # float32 graph against torch, per unit of the largest logit; correct looks like 4e-6 to 8e-6
ROWS_OFF_MAX = 0.02  # a router at a tie may flip on a last bit, and that row's logits jump


def check_items(rows: Sequence[Mapping[str, Any]], count: int) -> list[dict[str, Any]]:
    """`count` requests as `predict` takes them, spread evenly over the rows."""
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int))
    return [item_of(rows[row]) for row in chosen]


def difference(model: Path, bundle: Path, items: Sequence[Mapping[str, Any]]) -> float:
    """Largest |logit| difference between torch and the bundle over rows that agree (logit units).

    Raises StepFailed when more than `ROWS_OFF_MAX` of the rows differ by more than `DIFFERENCE_MAX`.
    """
    from serving.teachers import transformers

    answerer: Any = transformers.load(model)
    replies = answerer.complete([answerer.prompt(item) for item in items])
    pairs = [(reply.logits, own) for reply, own in zip(replies, predict.load(bundle).logits(items), strict=True)]
    del answerer
    gc.collect()
    limit = DIFFERENCE_MAX * max(1.0, *(float(np.abs(torch_AV).max()) for torch_AV, _ in pairs))
    apart = np.array([first_apart(torch_AV, own_AV) for torch_AV, own_AV in pairs])
    off = float((apart > limit).mean())
    if off > ROWS_OFF_MAX:
        what = f"{bundle.name}: {off:.0%} of {len(items)} rows differ from torch by more than {limit:.1g}"
        hint = "the exported graph does not compute what the model does"
        raise StepFailed("export", f"{what}, at most by {apart.max():.1g}", hint=hint)
    return float(apart[apart <= limit].max())


def first_apart(torch_AV: np.ndarray, own_AV: np.ndarray) -> float:
    """Largest difference of two answers' logits up to the first position where they choose another token."""
    both = min(len(torch_AV), len(own_AV))
    same = torch_AV[:both].argmax(-1) == own_AV[:both].argmax(-1)
    until = both if same.all() else int(same.argmin()) + 1
    return float(np.abs(torch_AV[:until] - own_AV[:until]).max())
