"""Texts that a student writes while it is trained, scored by the teacher's network as it stands beside it.

Shape legend: B rows, S tokens, Q scored positions, V vocabulary, H hidden size.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from cluster import schema
from cluster.recipe.labels import LabelsSection
from jobs.data import labels as forms
from jobs.tasks import packed_labels
from jobs.tasks.soft_labels import record
from jobs.tasks.text_generation import rows as text_generation_rows
from jobs.training.on_policy import Draw
from jobs.training.table import Columns
from serving.teachers import Reply
from serving.teachers.causal import CausalParams, CausalTeacher


def beginnings(columns: Columns, rows: np.ndarray, continues: bool, draw: Draw) -> list[np.ndarray]:
    """What each row's student text follows: the prompt, or a random part of the text, at most half of it."""
    out = []
    for row, number in zip(rows.tolist(), draw.numbers(rows), strict=True):
        context, answer = int(columns["context"][row]), int(columns["answer"][row])
        read = int(np.random.default_rng([*draw.seed, number]).integers(0, answer // 2 + 1)) if continues else 0
        out.append(columns["ids"][row, : context + read].astype(np.int64))
    return out


def written(student: nn.Module, tokenizer: Any, prompts: list[np.ndarray], draw: Draw, rows: np.ndarray) -> Columns:
    """The student's continuations as packed rows: contexts are the prompts, answers what it wrote, ends included."""
    was_training = student.training
    params = CausalParams(max_new_tokens=draw.section.max_new_tokens, batching="left_pad", chat_template=False)
    writer = CausalTeacher(student, tokenizer, params)
    seeds = [int(np.random.default_rng([*draw.seed, number, 1]).integers(1 << 62)) for number in draw.numbers(rows)]
    replies = writer.complete(prompts, draw.section.temperature, seeds, packer=_unkept)
    student.train(was_training)
    return text_generation_rows.columns(prompts, [reply.tokens for reply in replies])  # type: ignore[union-attr,misc]


def _unkept(rows: Any, logits_BV: Any, token_B: Any) -> None:
    """The student's own logits are computed again with gradients."""


@torch.no_grad()
def scored(teacher: nn.Module, batch: dict[str, Tensor], settings: LabelsSection, seed: int) -> dict[str, Tensor]:
    """The batch with `teacher_logits` float32 [Q, V], `teacher_hidden` [Q, H], `teacher_entropy` [Q], and where labels
    are kept in a sparse form the `sparse_` entries of that form."""
    model: Any = teacher
    ids_BS, at_Q = batch["input_ids"].to(model.device), batch["scored"].to(model.device)
    out = model(input_ids=ids_BS, output_hidden_states=True, use_cache=False)
    logits_QV = out.logits.flatten(0, 1)[at_Q].float().cpu()
    log_p_QV = logits_QV.log_softmax(-1)
    batch |= {
        "teacher_logits": logits_QV,
        "teacher_hidden": out.hidden_states[-1].flatten(0, 1)[at_Q].float().cpu(),
        "teacher_entropy": -(log_p_QV.exp() * log_p_QV).sum(-1),
    }
    if forms.form_of(settings, logits_QV.shape[1]) == "dense":
        return batch
    reply = Reply("", None, np.zeros(len(logits_QV), np.int64), logits_QV.numpy())
    row = record(f"{seed:016x}", reply, False, settings)
    table = schema.conform(pa.Table.from_pylist([row], schema.schema("soft_labels")), "soft_labels")
    every_1Q = np.ones((1, len(logits_QV)), bool)
    own = packed_labels.signals(packed_labels.sparse_columns(table, len(logits_QV)), np.arange(1), every_1Q)
    return batch | {name: torch.from_numpy(value) for name, value in own.items()}
