"""Soft labels of every form in the memory-mapped training table, and a batch's share of them as the losses read it.

A sparse form is padded to the fullest position of the table: ids int32, logits float16 and counts uint16 [R, A, K] with
the number of `entries` [R, A]; log-sum-exp and tails per position; temperature and draws once per row.
Shape legend: R rows, A answer positions, K entries, V vocabulary, Q scored positions.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from cluster.errors import MismatchError
from jobs.training.losses.sparse_labels import SparseLabels
from jobs.training.table import Columns

PREFIX = "sparse_"
ENTRIES = {"ids": np.int32, "logits": np.float16, "counts": np.uint16}  # [R, A, K]
POSITIONS = ("log_sum_exp", "log_sum_exp_t", "tail", "tail_t")  # [R, A]


def sparse_columns(labels: pa.Table, positions: int) -> dict[str, np.ndarray]:
    """Packed columns of labels in one sparse form, at most `positions` (A) of each row; what is beyond its end is 0.

    Raises MismatchError when rows of several forms, temperatures or draws are mixed.
    """
    for name in ("form", "temperature", "draws"):
        if len(labels[name].unique()) != 1:
            got = labels[name].unique().to_pylist()
            raise MismatchError(f"soft labels of several kinds: {name}", got=got, expected="one")
    valid_RA = np.arange(positions) < labels["positions"].to_numpy()[:, None]
    entries_RA = np.zeros(valid_RA.shape, np.int16)
    entries_RA[valid_RA] = _flat(labels, "entries")
    valid_RAK = np.arange(int(entries_RA.max())) < entries_RA[..., None]
    out = {f"{PREFIX}entries": entries_RA}
    for name, dtype in ENTRIES.items():
        out[PREFIX + name] = np.zeros(valid_RAK.shape, dtype)
        if not labels[name].null_count:
            out[PREFIX + name][valid_RAK] = _flat(labels, name)
    for name in POSITIONS:
        if not labels[name].null_count:
            out[PREFIX + name] = np.zeros(valid_RA.shape, np.float32)
            out[PREFIX + name][valid_RA] = _flat(labels, name)
    # Kept as float32 in the table: 0.7 must come out as the 0.7 that a recipe says.
    out[f"{PREFIX}temperature"] = np.full(len(valid_RA), round(labels["temperature"][0].as_py(), 6))
    out[f"{PREFIX}draws"] = np.full(len(valid_RA), labels["draws"][0].as_py(), np.int32)
    return out


def entropy_column(labels: pa.Table, positions: int) -> dict[str, np.ndarray]:
    """`teacher_entropy` float16 [R, A] (nats), which every form stores."""
    valid_RA = np.arange(positions) < labels["positions"].to_numpy()[:, None]
    out = np.zeros(valid_RA.shape, np.float16)
    out[valid_RA] = _flat(labels, "entropy")
    return {"teacher_entropy": out}


def signals(columns: Columns, rows: np.ndarray, valid_RA: np.ndarray) -> dict[str, np.ndarray]:
    """The batch's entries of what the two functions above packed; `valid_RA` bool says which positions are scored."""
    out: dict[str, np.ndarray] = {}
    if "teacher_entropy" in columns:
        out["teacher_entropy"] = columns["teacher_entropy"][rows][valid_RA].astype(np.float32)
    if f"{PREFIX}entries" not in columns:
        return out
    entries_Q = columns[f"{PREFIX}entries"][rows][valid_RA]
    width = int(entries_Q.max())
    out[f"{PREFIX}entries"] = entries_Q.astype(np.int64)
    for name, dtype in (("ids", np.int64), ("logits", np.float32), ("counts", np.float32)):
        out[PREFIX + name] = columns[PREFIX + name][rows][..., :width][valid_RA].astype(dtype)
    for name in POSITIONS:
        if PREFIX + name in columns:
            out[PREFIX + name] = columns[PREFIX + name][rows][valid_RA]
    for name in ("temperature", "draws"):
        out[PREFIX + name] = columns[PREFIX + name][rows[:1]]
    return out


def sparse_of(batch: Mapping[str, Tensor]) -> SparseLabels | None:
    """The labels of a batch as the losses read them; None where it holds none of a sparse form."""
    if f"{PREFIX}entries" not in batch:
        return None
    own = {name.removeprefix(PREFIX): value for name, value in batch.items() if name.startswith(PREFIX)}
    place_K = torch.arange(own["ids"].shape[1], device=own["ids"].device)
    temperature = float(own["temperature"])
    suffix = "" if temperature == 1.0 else "_t"
    tails = "tail" in own
    return SparseLabels(
        ids_QK=own["ids"],
        logits_QK=own["logits"],
        counts_QK=own["counts"],
        valid_QK=place_K < own["entries"][:, None],
        log_sum_exp_Q=own["log_sum_exp"],
        log_sum_exp_t_Q=own["log_sum_exp" + suffix],
        temperature=temperature,
        draws=int(own["draws"]),
        tail_Q=own["tail"] if tails else None,
        tail_t_Q=own["tail" + suffix] if tails else None,
    )


def _flat(labels: pa.Table, name: str) -> np.ndarray:
    values: np.ndarray = labels[name].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return values
