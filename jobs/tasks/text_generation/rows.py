"""Rows of a language model in the packed table and in a batch: what is read, what it predicts, what the teacher said.

Shape legend: R rows, B rows of a batch, S tokens, A answer positions, Q scored positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from jobs.tasks.soft_labels import teacher_signals
from jobs.training.table import Columns
from serving.models import decoder

SCORED_AT_ONCE = 1 << 25  # logits of an evaluation batch: 128 MiB in float32


def columns(contexts: Sequence[np.ndarray], answers: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """`ids` int32 [R, S] (context, then answer, then 0), int32 [R] `context`, `answer` and `length` (tokens of each and
    of both), and the only `slice` 0."""
    context_R = np.array([len(ids) for ids in contexts], np.int32)
    answer_R = np.array([len(ids) for ids in answers], np.int32)
    length_R = context_R + answer_R
    ids_RS = np.zeros((len(length_R), int(length_R.max())), np.int32)
    whole = [part for pair in zip(contexts, answers, strict=True) for part in pair]
    ids_RS[np.arange(ids_RS.shape[1]) < length_R[:, None]] = np.concatenate(whole)
    slices = np.zeros(len(length_R), np.int16)
    return {"ids": ids_RS, "context": context_R, "answer": answer_R, "length": length_R, "slice": slices}


def batch(columns: Columns, rows: np.ndarray) -> dict[str, Tensor]:
    """`input_ids` int64 [B, S] padded on the right, `scored` int64 [Q] (flat row * S + position), `targets` int64 [Q]
    and the teacher's signals at these positions, where the table holds them."""
    context_B, answer_B = columns["context"][rows].astype(np.int64), columns["answer"][rows].astype(np.int64)
    width = int((context_B + answer_B).max()) - 1
    ids_BS = columns["ids"][rows, : width + 1].astype(np.int64)
    place_A = np.arange(int(answer_B.max()))
    valid_BA = place_A < answer_B[:, None]
    at_BA = np.arange(len(rows))[:, None] * width + context_B[:, None] - 1 + place_A
    target_BA = np.minimum(context_B[:, None] + place_A, width)
    arrays = {
        "input_ids": np.ascontiguousarray(ids_BS[:, :-1]),
        "scored": at_BA[valid_BA],
        "targets": np.take_along_axis(ids_BS, target_BA, 1)[valid_BA],
    }
    if "teacher_entropy" in columns:  # as wide as the longest answer of the table
        every_RA = np.arange(columns["teacher_entropy"].shape[1]) < answer_B[:, None]
        arrays |= teacher_signals(columns, rows, every_RA)
    return {name: torch.from_numpy(value) for name, value in arrays.items()}


def real(batch: Mapping[str, Tensor]) -> Tensor:
    """Which positions hold tokens, bool [B, S]: those up to a row's last scored one, for an answer ends its row."""
    ids_BS, scored_Q = batch["input_ids"], batch["scored"]
    rows, width = ids_BS.shape
    last_B = torch.zeros(rows, dtype=torch.long, device=ids_BS.device)
    last_B.scatter_reduce_(0, scored_Q // width, scored_Q % width, "amax")
    return torch.arange(width, device=ids_BS.device) <= last_B[:, None]


def positions(columns: Columns, rows: np.ndarray) -> int:
    """Q of these rows."""
    return int(columns["answer"][rows].sum())


@torch.no_grad()
def measured(network: nn.Module, columns: Columns, vocabulary: int) -> dict[str, float]:
    """How well true tokens are predicted: `likelihood` exp(mean log-probability), 0 to 1, which is 1 / `perplexity`
    (the two say the same, the first is higher where a model is better), and `token_accuracy`."""
    was_training = network.training
    network.eval()
    nll, hits, count = 0.0, 0, 0
    device = next(network.parameters()).device
    for rows in batches(columns["answer"], vocabulary):
        own: Mapping[str, Any] = {name: value.to(device) for name, value in batch(columns, rows).items()}
        logits_QV, _ = decoder.scored(network, own)
        log_p_Q = logits_QV.float().log_softmax(-1).gather(-1, own["targets"][:, None])
        nll -= float(log_p_Q.double().sum())
        hits += int((logits_QV.argmax(-1) == own["targets"]).sum())
        count += len(own["targets"])
    network.train(was_training)
    likelihood = float(np.exp(-nll / count))
    return {"likelihood": likelihood, "perplexity": 1 / likelihood, "token_accuracy": hits / count}


def batches(answer_R: np.ndarray, vocabulary: int) -> Iterator[np.ndarray]:
    """Row numbers, rows of like length together, whose logits fit into memory."""
    order, start = np.argsort(answer_R, kind="stable"), 0
    while start < len(order):
        end = start + 1
        while end < len(order) and (end + 1 - start) * int(answer_R[order[end]]) * vocabulary <= SCORED_AT_ONCE:
            end += 1
        yield order[start:end]
        start = end
