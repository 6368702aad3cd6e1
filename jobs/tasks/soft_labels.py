"""Packs a teacher's signals for storage and unpacks them for training: dense logits at T=1 and int8 hidden states.

Shape legend: R rows, A answer positions, V vocabulary or classes, H hidden size, Q scored positions of a batch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from jobs.training.table import Columns
from serving.bundle.predict import softmax
from serving.teachers.transformers import Reply


def record(sample_id: str, reply: Reply, keep_hidden: bool) -> dict[str, Any]:
    """One row of the soft-label table (`cluster.schema` "soft_labels") from one reply.

    Logits are stored minus the maximum of their position: float16 then keeps the likely classes exactly, and any
    temperature stays exact up to that rounding. Hidden states are int8 with one scale per position.
    """
    logits_AV = reply.logits - reply.logits.max(-1, keepdims=True)
    p_AV = softmax(logits_AV)
    entropy_A = -(p_AV * np.log(np.maximum(p_AV, 1e-12))).sum(-1)
    scale_A = np.maximum(np.abs(reply.hidden).max(-1), 1e-8) / 127
    hidden = np.round(reply.hidden / scale_A[:, None]).astype(np.int8)
    return {
        "sample_id": sample_id,
        "positions": logits_AV.shape[0],
        "vocabulary": logits_AV.shape[1],
        "logits": logits_AV.astype(np.float16).reshape(-1),
        "tokens": reply.tokens.astype(np.int32),
        "entropy": entropy_A.astype(np.float16),
        "hidden": hidden.reshape(-1) if keep_hidden else None,
        "hidden_scale": scale_A.astype(np.float32) if keep_hidden else None,
    }


def margins(labels: pa.Table) -> np.ndarray:
    """Per row the largest minus second largest probability at T=1, mean over positions, float64 [R]: small where the
    teacher wavered."""
    vocabulary, lengths = int(labels["vocabulary"][0].as_py()), labels["positions"].to_numpy()
    top = np.partition(softmax(_values(labels["logits"]).astype(np.float32).reshape(-1, vocabulary)), -2, axis=-1)
    row = np.repeat(np.arange(len(lengths)), lengths)
    mean: np.ndarray = np.bincount(row, top[:, -1] - top[:, -2], len(lengths)) / lengths
    return mean


def soft_columns(labels: pa.Table, positions: int) -> dict[str, np.ndarray]:
    """Packed columns of a soft-label table: teacher_logits float16 [R, A, V], teacher_hidden int8 [R, A, H] with
    hidden_scale float32 [R, A]; positions beyond an answer's end are zero and never scored."""
    count, vocabulary = labels.num_rows, int(labels["vocabulary"][0].as_py())
    lengths = labels["positions"].to_numpy()
    valid_RA = np.arange(positions) < lengths[:, None]
    logits = np.zeros((count, positions, vocabulary), np.float16)
    logits[valid_RA] = _values(labels["logits"]).reshape(-1, vocabulary)
    columns = {"teacher_logits": logits}
    if labels["hidden"].null_count == 0:
        flat, scale = _values(labels["hidden"]), _values(labels["hidden_scale"])
        width = len(flat) // len(scale)
        hidden, scales = np.zeros((count, positions, width), np.int8), np.zeros((count, positions), np.float32)
        hidden[valid_RA], scales[valid_RA] = flat.reshape(-1, width), scale
        columns |= {"teacher_hidden": hidden, "hidden_scale": scales}
    return columns


def teacher_signals(columns: Columns, rows: np.ndarray, valid_RA: np.ndarray) -> dict[str, np.ndarray]:
    """`teacher_logits` float32 [Q, V] and `teacher_hidden` float32 [Q, H] of a batch, where the table holds them."""
    signals = {}
    if "teacher_logits" in columns:
        signals["teacher_logits"] = columns["teacher_logits"][rows][valid_RA].astype(np.float32)
    if "teacher_hidden" in columns:
        scale_Q1 = columns["hidden_scale"][rows][valid_RA][:, None]
        signals["teacher_hidden"] = columns["teacher_hidden"][rows][valid_RA].astype(np.float32) * scale_Q1
    return signals


def _values(column: pa.ChunkedArray) -> np.ndarray:
    values: np.ndarray = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return values
