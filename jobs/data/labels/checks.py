"""Verifies stored soft labels: what a row says of itself must hold, and what was packed must come back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jobs.data.labels import entropy, reader

SLACK = 0.02  # of float16 logits rounded to a sixteenth of a nat, over many entries
Row = dict[str, Any]


def problems(folder: Path) -> list[str]:
    """Everything wrong with the labels of an artifact's folder, one line each; empty when all is well.

    Raises ArtifactMismatch as `jobs.data.labels.reader.stream`. Checksums are checked by `Artifact.path`.
    """
    found: list[str] = []
    seen: set[str] = set()
    for _, labels in reader.stream(folder):
        for row in labels.to_pylist():
            found += [f"{row['sample_id']}: {name}" for name, holds in CHECKS.items() if not holds(row)]
            if row["sample_id"] in seen:
                found.append(f"{row['sample_id']}: twice in {reader.LABELS}")
            seen.add(row["sample_id"])
    return found


def masses(row: Row) -> list[np.ndarray]:
    """Probability at T=1 of every stored token, one float64 array per position, in the order of `ids` (or of V)."""
    logits = np.asarray(row["logits"], np.float64)
    if row["form"] == "dense":
        logits_PV = logits.reshape(row["positions"], row["vocabulary"])
        e_PV = np.exp(logits_PV - logits_PV.max(-1, keepdims=True))
        return list(e_PV / e_PV.sum(-1, keepdims=True))
    lse_E = np.repeat(np.asarray(row["log_sum_exp"], np.float64), row["entries"])
    return np.split(np.exp(logits - lse_E), np.cumsum(row["entries"])[:-1])


def _lengths(row: Row) -> bool:
    if row["form"] == "dense":
        return bool(len(row["logits"]) == row["positions"] * row["vocabulary"])
    entries = sum(row["entries"])
    own = [len(row["logits"]), len(row["ids"]), *([len(row["counts"])] if row["counts"] is not None else [])]
    return bool(len(row["entries"]) == row["positions"] and set(own) == {entries})


def _ids(row: Row) -> bool:
    if row["form"] == "dense":
        return True
    parts = np.split(np.asarray(row["ids"]), np.cumsum(row["entries"])[:-1])
    return all(len(ids) and ids[0] >= 0 and ids[-1] < row["vocabulary"] and (np.diff(ids) > 0).all() for ids in parts)


def _counts(row: Row) -> bool:
    """The draws of a position are all there, or none where the likeliest are the whole vocabulary."""
    if row["counts"] is None:
        return bool(row["draws"] == 0)
    drawn = [int(part.sum()) for part in np.split(np.asarray(row["counts"]), np.cumsum(row["entries"])[:-1])]
    return set(drawn) <= ({row["draws"]} if row["form"] == "sampled" else {row["draws"], 0})


def _mass(row: Row) -> bool:
    tails = row["tail"]
    if tails is not None and not all(0.0 <= tail <= 1.0 for tail in tails):
        return False
    for place, part in enumerate(masses(row)):
        drawn = row["form"] in ("sampled", "top_k_sampled")
        if part.sum() > 1 + SLACK or (tails is not None and not drawn and abs(part.sum() + tails[place] - 1) > SLACK):
            return False
    return True


def _entropy(row: Row) -> bool:
    values = np.asarray(row["entropy"], np.float64)
    if not (np.isfinite(values).all() and (values >= 0).all() and (values <= np.log(row["vocabulary"]) + SLACK).all()):
        return False
    if row["form"] != "dense":
        return True
    again = entropy(np.asarray(row["logits"], np.float64).reshape(row["positions"], row["vocabulary"]))
    return bool(np.abs(again - values).max() <= SLACK)


CHECKS: dict[str, Callable[[Row], bool]] = {
    "columns of different lengths": _lengths,
    "ids not ascending within the vocabulary": _ids,
    "draws lost or doubled": _counts,
    "probabilities do not add up": _mass,
    "entropy does not fit the logits": _entropy,
}
