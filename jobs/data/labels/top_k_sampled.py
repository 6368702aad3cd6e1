"""The k likeliest tokens exactly, and the tail by draws: unbiased like `sampled`, with less noise where the mass is.

Exact entries have count 0 and weigh p_T(i). A tail entry with c_i of n draws from p_Tq over the tail weighs
    w_i(T) = tail_Tq * (c_i / n) * p_T(i) / p_Tq(i),        E[w_i(T)] = p_T(i).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cluster.recipe.labels import LabelsSection
from jobs.data.labels import top_k
from jobs.data.labels.sampled import draw, rounded

Array = np.ndarray[Any, Any]


def pack(relative_PV: Array, settings: LabelsSection, rng: np.random.Generator) -> dict[str, Any]:
    """As `top_k`, with the drawn tail ids among the `ids` of their position and `counts` (0: exact)."""
    out = top_k.pack(relative_PV, settings, rng)
    width = int(out["entries"][0])
    ids, counts, logits = [], [], []
    kept, exact = out["ids"].reshape(-1, width), out["logits"].reshape(-1, width)
    for place, logits_V in enumerate(relative_PV):
        weight_V = np.exp(logits_V / np.float32(settings.temperature))
        weight_V[kept[place]] = 0.0
        drawn = draw(weight_V, settings, rng) if weight_V.any() else (np.empty(0, np.int64), np.empty(0, np.int64))
        all_ids = np.concatenate([kept[place], drawn[0]])
        order = np.argsort(all_ids)
        ids.append(all_ids[order])
        counts.append(np.concatenate([np.zeros(width, np.int64), drawn[1]])[order])
        drawn_logits = rounded(logits_V[drawn[0]], settings.logit_step)
        logits.append(np.concatenate([exact[place], drawn_logits])[order])
    return out | {
        "ids": np.concatenate(ids).astype(np.int32), "counts": np.concatenate(counts).astype(np.int32),
        "logits": np.concatenate(logits), "entries": np.array([len(own) for own in ids], np.int32),
        "draws": settings.draws,
    }  # fmt: skip
