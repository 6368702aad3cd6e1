"""Forms of soft labels by name: each packs one answer's logits into columns; a new form is one file and one line here.

A form is a function of (logits [P, V] minus the largest of their position, settings, generator) -> the columns of
`cluster.schema` "soft_labels" that are its own. Pure numpy; the draws are the only randomness.
Shape legend: P positions of one answer, V vocabulary or classes, E entries of all positions together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from cluster.recipe.labels import LabelsSection
from jobs.data.labels import dense, sampled, top_k, top_k_sampled

Array = np.ndarray[Any, Any]
FORMS: Mapping[str, Callable[[Array, LabelsSection, np.random.Generator], dict[str, Any]]] = {
    "dense": dense.pack,
    "sampled": sampled.pack,
    "top_k": top_k.pack,
    "top_k_sampled": top_k_sampled.pack,
}


def form_of(settings: LabelsSection, vocabulary: int) -> str:
    """The form that is used for a vocabulary of this size (`auto` resolved)."""
    if settings.form != "auto":
        return settings.form
    return "dense" if vocabulary <= settings.dense_limit else "sampled"


def pack(logits_PV: Array, settings: LabelsSection, seed: int | np.random.Generator) -> dict[str, Any]:
    """One row's columns but `sample_id`, `tokens` and hidden states, of float logits [P, V] at T=1.

    `seed` decides the draws and nothing else, so the same row gives the same bytes in any batch; a generator goes on
    where it is, so positions may come one by one. Raises ValueError when a logit is NaN or infinite.
    """
    if not np.isfinite(logits_PV).all():
        raise ValueError("not_finite: the teacher's logits hold NaN or infinity")
    relative_PV = logits_PV - logits_PV.max(-1, keepdims=True)
    form = form_of(settings, logits_PV.shape[1])
    return {
        "form": form, "positions": logits_PV.shape[0], "vocabulary": logits_PV.shape[1],
        "temperature": settings.temperature, "draws": 0, "entropy": entropy(relative_PV).astype(np.float16),
        **FORMS[form](relative_PV, settings, np.random.default_rng(seed)),
    }  # fmt: skip


def joined(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One row's columns out of those of its positions, in order."""
    out = dict(parts[0])
    for name, value in parts[0].items():
        if isinstance(value, np.ndarray):
            out[name] = np.concatenate([part[name] for part in parts])
    return out | {"positions": sum(part["positions"] for part in parts)}


class StepPacker:
    """Packs the logits of many rows step by step while they are there: `serving.teachers.causal.Packer`.

    Keeps what is stored and never [A, V]; a row's bytes are those that `pack` gives of its whole answer.
    """

    def __init__(self, settings: LabelsSection, seeds: Sequence[int]) -> None:
        self.settings = settings
        self._rngs = [np.random.default_rng(seed) for seed in seeds]
        self._parts: list[list[dict[str, Any]]] = [[] for _ in seeds]

    def __call__(self, rows: Sequence[int], logits_BV: Any, token_B: Any) -> None:
        """Pack one position of every row in `rows`: a float32 tensor or array [B, V] at T=1. Raises ValueError."""
        for row, logits_V in zip(rows, np.asarray(logits_BV), strict=True):
            self._parts[row].append(pack(logits_V[None], self.settings, self._rngs[row]))

    def packed(self, row: int) -> dict[str, Any]:
        """The columns of a row's whole answer."""
        return joined(self._parts[row])


def entropy(relative_PV: Array) -> Array:
    """-sum p log p at T=1 per position, nats, float64 [P], as log-sum-exp minus the mean logit."""
    out = np.empty(len(relative_PV))
    for place, logits_V in enumerate(relative_PV):
        e_V = np.exp(logits_V)
        total = e_V.sum(dtype=np.float64)
        out[place] = np.log(total) - float((e_V * logits_V).sum(dtype=np.float64)) / total
    return np.maximum(out, 0.0)
