"""What the answer depends on: gradients of the task loss by the input are compared (arXiv 1612.03928, eq. 5; Sobolev
training, arXiv 1706.04859). Not in `LOSSES`: no task hands an input that takes gradients to the loop.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


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
