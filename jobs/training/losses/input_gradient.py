"""What the answer depends on: gradients of the task loss by the input are compared (arXiv 1612.03928, eq. 5; Sobolev
training, arXiv 1706.04859).

Of a live teacher and an input that both networks read as it is (pixels; of texts each has token vectors of its own). A
step takes about three times as long: the teacher's backward pass, and one through the student's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from cluster.recipe.base import Section

if TYPE_CHECKING:
    from jobs.training.losses import Signals


class Params(Section):
    """No parameters."""


def term(signals: Signals, params: Params) -> Tensor:
    """`input_gradient` of a batch; scalar. Reads student_slopes and teacher_slopes."""
    assert signals.student_slopes is not None
    assert signals.teacher_slopes is not None
    return input_gradient(signals.student_slopes, signals.teacher_slopes)


def gradient_of(logits_QV: Tensor, targets_Q: Tensor, inputs: Tensor) -> Tensor:
    """d(cross entropy summed over Q)/d(inputs), of the inputs' shape, itself differentiable by the weights.

    `inputs` (pixels or token embeddings) must require gradients and `logits_QV` must come from them.
    """
    loss = F.cross_entropy(logits_QV, targets_Q, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, inputs, create_graph=True)
    return gradient


def input_gradient(student_BX: Tensor, teacher_BX: Tensor) -> Tensor:
    """mean (J_s - J_t)^2 / mean J_t^2; scalar, >= 0, 1 = a student that depends on nothing.

    J are input gradients [B, ...] of `gradient_of`, the same inputs for both. The teacher's scale is taken out, so
    that its confidence (a sure teacher has tiny gradients) does not set the size of the term.
    """
    return (student_BX - teacher_BX).pow(2).mean() / teacher_BX.pow(2).mean().clamp_min(1e-12)
