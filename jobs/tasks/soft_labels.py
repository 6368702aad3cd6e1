"""Packs a teacher's signals for storage and unpacks them for training: logits in the recipe's form, int8 hidden states.

Shape legend: R rows, A answer positions, V vocabulary or classes, K entries, H hidden size, Q scored positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from cluster.errors import MismatchError
from cluster.recipe.labels import LabelsSection
from jobs.data import labels as forms
from jobs.data.labels import hidden
from jobs.tasks import packed_labels
from jobs.training.losses.sparse_labels import SparseLabels
from jobs.training.table import Columns
from serving.bundle.answer import softmax
from serving.teachers import Reply

DEFAULT = LabelsSection()


def record(sample_id: str, reply: Reply, keep_hidden: bool, settings: LabelsSection = DEFAULT,
           packed: Mapping[str, Any] | None = None) -> dict[str, Any]:  # fmt: skip
    """One row of the soft-label table (`cluster.schema` "soft_labels") from one reply, or from what was `packed` of it.

    Logits are stored minus the maximum of their position: float16 then keeps the likely classes exactly, and any
    temperature of a dense row stays exact up to that rounding. The draws of a sampled form are of the `sample_id`.
    A reply without logits (an endpoint) has no soft labels: every column but the id is null. Raises ValueError when a
    logit is NaN or infinite, or when hidden states are wanted that the teacher does not give.
    """
    if packed is None and reply.logits is None:
        return {"sample_id": sample_id}
    if packed is None:
        packed = forms.pack(np.asarray(reply.logits), settings, int(sample_id, 16))
    states: dict[str, Any] = {"hidden": None, "hidden_scale": None}
    if keep_hidden:
        if reply.hidden is None:
            raise ValueError("no_hidden: generate.hidden_layer(s) is set and the teacher gives no hidden states")
        states = dict(hidden.pack(reply.hidden))
    tokens = None if reply.tokens is None else reply.tokens.astype(np.int32)
    return {"sample_id": sample_id, "tokens": tokens, **packed, **states}


def margins(labels: pa.Table) -> np.ndarray:
    """Per row the largest minus second largest probability at T=1, mean over positions, float64 [R]: small where the
    teacher wavered. Forms that keep some tokens give the gap between the two likeliest of those."""
    if not _dense(labels):
        return _sparse_margins(labels)
    vocabulary, lengths = int(labels["vocabulary"][0].as_py()), labels["positions"].to_numpy()
    top = np.partition(softmax(_values(labels["logits"]).astype(np.float32).reshape(-1, vocabulary)), -2, axis=-1)
    row = np.repeat(np.arange(len(lengths)), lengths)
    mean: np.ndarray = np.bincount(row, top[:, -1] - top[:, -2], len(lengths)) / lengths
    return mean


def soft_columns(labels: pa.Table, positions: int) -> dict[str, np.ndarray]:
    """Packed columns of a soft-label table: teacher_logits float16 [R, A, V] of dense labels, or the `sparse_` columns
    of `packed_labels`; teacher_entropy float16 [R, A]; teacher_hidden int8 [R, A, H] with hidden_scale float32 [R, A],
    or [R, A, L, H] and [R, A, L] of several layers. Positions beyond an answer's end are zero and never scored.
    """
    count, lengths = labels.num_rows, labels["positions"].to_numpy()
    valid_RA = np.arange(positions) < lengths[:, None]
    columns = packed_labels.entropy_column(labels, positions)
    if _dense(labels):
        vocabulary = int(labels["vocabulary"][0].as_py())
        columns["teacher_logits"] = np.zeros((count, positions, vocabulary), np.float16)
        columns["teacher_logits"][valid_RA] = _values(labels["logits"]).reshape(-1, vocabulary)
    else:
        columns |= packed_labels.sparse_columns(labels, positions)
    if labels["hidden"].null_count == 0:
        flat, scale = _values(labels["hidden"]), _values(labels["hidden_scale"])
        layers, width = len(scale) // int(lengths.sum()), len(flat) // len(scale)
        shape = (count, positions) if layers == 1 else (count, positions, layers)
        hidden, scales = np.zeros((*shape, width), np.int8), np.zeros(shape, np.float32)
        hidden[valid_RA], scales[valid_RA] = flat.reshape(-1, *shape[2:], width), scale.reshape(-1, *shape[2:])
        columns |= {"teacher_hidden": hidden, "hidden_scale": scales}
    return columns


def teacher_signals(columns: Columns, rows: np.ndarray, valid_RA: np.ndarray) -> dict[str, np.ndarray]:
    """`teacher_logits` float32 [Q, V], `teacher_hidden` float32 [Q, H] or [Q, L, H], `teacher_entropy` float32 [Q] and
    the `sparse_` entries (`packed_labels`) of a batch, where the table holds them."""
    signals = packed_labels.signals(columns, rows, valid_RA)
    if "teacher_logits" in columns:
        signals["teacher_logits"] = columns["teacher_logits"][rows][valid_RA].astype(np.float32)
    if "teacher_hidden" in columns:
        scale = columns["hidden_scale"][rows][valid_RA][..., None]
        signals["teacher_hidden"] = columns["teacher_hidden"][rows][valid_RA].astype(np.float32) * scale
    return signals


def likeliest(columns: Columns) -> np.ndarray:
    """The teacher's likeliest class of each row int64 [R], at its first position, whatever the form of its labels."""
    if "teacher_logits" in columns:
        return np.asarray(columns["teacher_logits"][:, 0].argmax(-1))
    ids_RK, logits_RK = columns["sparse_ids"][:, 0], columns["sparse_logits"][:, 0].astype(np.float32)
    valid_RK = np.arange(ids_RK.shape[1]) < columns["sparse_entries"][:, :1]
    best_R1 = np.where(valid_RK, logits_RK, -np.inf).argmax(-1)[:, None]
    return np.take_along_axis(ids_RK, best_R1, 1)[:, 0].astype(np.int64)


def sparse(labels: pa.Table) -> SparseLabels:
    """Labels of one sparse form as tensors, one row per position: answers one after the other in the table's order.

    Raises MismatchError when rows of several forms, temperatures or draws are mixed, or when they are dense.
    """
    if _dense(labels):
        raise MismatchError("soft labels are dense", got="dense", expected="a form that keeps some tokens")
    lengths = labels["positions"].to_numpy()
    valid_RA = np.arange(int(lengths.max())) < lengths[:, None]
    columns = packed_labels.sparse_columns(labels, valid_RA.shape[1])
    own = packed_labels.signals(columns, np.arange(labels.num_rows), valid_RA)
    found = packed_labels.sparse_of({name: torch.from_numpy(value) for name, value in own.items()})
    assert found is not None
    return found


def _sparse_margins(labels: pa.Table) -> np.ndarray:
    entries_Q = _values(labels["entries"])
    position_E = np.repeat(np.arange(len(entries_Q)), entries_Q)
    p_E = np.exp(_values(labels["logits"]).astype(np.float64) - _values(labels["log_sum_exp"])[position_E])
    order_E = np.lexsort((-p_E, position_E))
    first_Q = np.cumsum(entries_Q) - entries_Q
    second_Q = np.where(entries_Q > 1, p_E[order_E][np.minimum(first_Q + 1, len(p_E) - 1)], 0.0)
    lengths = labels["positions"].to_numpy()
    row = np.repeat(np.arange(len(lengths)), lengths)
    mean: np.ndarray = np.bincount(row, p_E[order_E][first_Q] - second_Q, len(lengths)) / lengths
    return mean


def _dense(labels: pa.Table) -> bool:
    return set(labels["form"].unique().to_pylist()) <= {"dense"}


def _values(column: pa.ChunkedArray) -> np.ndarray:
    values: np.ndarray = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return values
