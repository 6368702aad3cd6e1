"""Draws from the teacher's own distribution with importance weights: unbiased at any temperature (arXiv 2503.16870).

n draws are made at T_q = `settings.temperature`; entry i has c_i of them. With p_T(i) = exp(l_i / T - lse_T) the weight
    w_i(T) = (c_i / n) * p_T(i) / p_Tq(i),        E[c_i] = n p_Tq(i)   =>   E[w_i(T)] = p_T(i)
is an unbiased estimate of the teacher's probability, so sum_i w_i f(i) is one of E_pT[f] for every f, the gradient of
the cross entropy among them. Where lse_T is not stored the weights are normalised by their sum (a ratio estimate: its
bias falls as 1/n). At T = T_q the weights are c_i / n whatever the logits are, so their rounding costs nothing there.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cluster.recipe.labels import LabelsSection

Array = np.ndarray[Any, Any]


def pack(relative_PV: Array, settings: LabelsSection, rng: np.random.Generator) -> dict[str, Any]:
    """Unique `ids` ascending, `counts`, rounded `logits`, `entries` per position, log-sum-exp at T=1 and at T_q."""
    found, t = [], settings.temperature
    one_P, at_t_P = np.empty(len(relative_PV)), np.empty(len(relative_PV))
    for place, logits_V in enumerate(relative_PV):
        weight_V = np.exp(logits_V / np.float32(t))
        at_t_P[place] = np.log(weight_V.sum(dtype=np.float64))
        one_P[place] = at_t_P[place] if t == 1.0 else log_sum_exp(logits_V, 1.0)
        found.append(draw(weight_V, settings, rng))
    ids = np.concatenate([ids for ids, _ in found])
    entries = np.array([len(ids) for ids, _ in found], np.int32)
    own = relative_PV[np.repeat(np.arange(len(found)), entries), ids]
    return {
        "ids": ids.astype(np.int32), "entries": entries, "draws": settings.draws,
        "counts": np.concatenate([counts for _, counts in found]).astype(np.int32),
        "logits": rounded(own, settings.logit_step), "log_sum_exp": one_P.astype(np.float32),
        "log_sum_exp_t": None if t == 1.0 else at_t_P.astype(np.float32),
    }  # fmt: skip


def draw(weight_V: Array, settings: LabelsSection, rng: np.random.Generator) -> tuple[Array, Array]:
    """Unique ids ascending and how often each was drawn, in proportion to `weight_V` (any scale, not all zero).

    Both schemes give E[count] = draws * weight / sum; systematic draws (one offset for evenly spaced points) also keep
    every count within one of it. An id of weight 0 is never drawn.
    """
    running_V = np.cumsum(weight_V, dtype=np.float64)
    if settings.scheme == "systematic":
        point_N = (np.arange(settings.draws) + rng.random()) / settings.draws
    else:
        point_N = rng.random(settings.draws)
    last = int(np.flatnonzero(weight_V)[-1])  # rounding may put the last point at the very end
    ids_N = np.minimum(np.searchsorted(running_V, point_N * running_V[-1], side="right"), last)
    ids, counts = np.unique(ids_N, return_counts=True)
    return ids, counts


def log_sum_exp(relative_V: Array, temperature: float) -> float:
    """log sum exp(l / T) of logits minus their largest: at least 0."""
    return float(np.log(np.exp(relative_V / np.float32(temperature)).sum(dtype=np.float64)))


def rounded(logits_E: Array, step: float) -> Array:
    """float16 multiples of `step` (nats), which take half the bytes; the error averages out over draws."""
    return (np.round(logits_E / step) * step).astype(np.float16)
