"""The k likeliest tokens exactly and the mass of all others: biased (the tail has no shape), small and without noise.

p_T(i) = exp(l_i / T - lse_T) for the k likeliest,      tail_T = sum of p_T over the others
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cluster.recipe.labels import LabelsSection
from jobs.data.labels.sampled import log_sum_exp

Array = np.ndarray[Any, Any]


def pack(relative_PV: Array, settings: LabelsSection, rng: np.random.Generator) -> dict[str, Any]:
    """`ids` ascending, float16 `logits`, log-sum-exp and `tail` mass at T=1 and at T; draws nothing.

    The tail is summed over the tokens that were left out, never taken as 1 minus the rest: it cannot be below 0, keeps
    its digits where it is tiny, and is exactly 0 with k >= V.
    """
    kept_Pk = likeliest(relative_PV, settings.likeliest)
    rows = np.arange(len(relative_PV))[:, None]
    out: dict[str, Any] = {
        "ids": kept_Pk.astype(np.int32).reshape(-1),
        "entries": np.full(len(kept_Pk), kept_Pk.shape[1], np.int32),
        "logits": relative_PV[rows, kept_Pk].astype(np.float16).reshape(-1),
    }
    for suffix, temperature in (("", 1.0), ("_t", settings.temperature)):
        same = suffix == "_t" and temperature == 1.0  # null: as at T=1
        lse_P = np.array([log_sum_exp(logits_V, temperature) for logits_V in relative_PV])
        out["log_sum_exp" + suffix] = None if same else lse_P.astype(np.float32)
        out["tail" + suffix] = None if same else tail(relative_PV, kept_Pk, lse_P, temperature)
    return out


def likeliest(relative_PV: Array, k: int) -> Array:
    """Ids of the k largest logits (all of them with k >= V), ascending, int64 [P, k]."""
    if k >= relative_PV.shape[1]:
        return np.tile(np.arange(relative_PV.shape[1]), (len(relative_PV), 1))
    return np.sort(np.argpartition(-relative_PV, k - 1, axis=1)[:, :k], axis=1)


def tail(relative_PV: Array, kept_Pk: Array, lse_P: Array, temperature: float) -> Array:
    """Mass float32 [P] of the tokens that are not kept, at `temperature`."""
    out = np.empty(len(relative_PV), np.float32)
    for place, logits_V in enumerate(relative_PV):
        p_V = np.exp(logits_V / np.float32(temperature) - np.float32(lse_P[place]))
        p_V[kept_Pk[place]] = 0.0
        out[place] = p_V.sum(dtype=np.float64)
    return out
