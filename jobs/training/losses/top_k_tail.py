"""Forward KL over the teacher's k likeliest tokens and one bucket that holds all others.

The tail's mass is learned and its shape is not: on a real language model this form alone loses to plain cross entropy
in KL (DESIGN, decision 1). Kept for caches that others made, and as the form that sampled labels are measured against.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from cluster.errors import MismatchError
from cluster.recipe.base import Section
from jobs.training.positions import Mean, mean_over

if TYPE_CHECKING:
    from jobs.training.losses import Signals


class Params(Section):
    """Parameters of the term."""

    temperature: float = Field(1.0, gt=0, description="distillation temperature T: 1, or the one the tail is kept for")


def top_k_tail(signals: Signals, params: Params) -> Tensor:
    """T^2 * mean over Q of KL over k + 1 outcomes, top k and tail; scalar, nats, >= 0 up to the labels' rounding.

    A tail of exactly 0 (k >= V) adds nothing. Reads student_logits_QV and teacher_sparse. Raises MismatchError when
    no tail was stored at T.
    """
    labels, t = signals.teacher_sparse, params.temperature
    assert labels is not None
    tail_Q, lse_Q = labels.tail(t), labels.log_sum_exp(t)
    if tail_Q is None or lse_Q is None:
        expected = f"top_k labels, T=1 or T={labels.temperature:g}"
        raise MismatchError("soft labels hold no tail at this temperature", got=f"T={t:g}", expected=expected)
    exact_QK = labels.valid_QK & (labels.counts_QK == 0)

    def formula(
        mean: Mean, logits_NV: Tensor, ids_NK: Tensor, top_NK: Tensor, exact_NK: Tensor, tail_N: Tensor
    ) -> Tensor:
        top_NK, tail_N = top_NK.to(logits_NV.dtype), tail_N.to(logits_NV.dtype)
        # float16 moved every logit a little: the top's masses are scaled to what the exact tail leaves: KL is >= 0.
        scaled_NK = (top_NK / t).masked_fill(~exact_NK, -torch.inf).log_softmax(-1)
        log_p_NK = scaled_NK + torch.log1p(-tail_N)[:, None]
        log_q_NK = F.log_softmax(logits_NV / t, -1).gather(-1, ids_NK)
        inside_NK = torch.where(exact_NK, log_p_NK.exp() * (log_p_NK - log_q_NK), torch.zeros_like(log_q_NK))
        left_N = log_q_NK.masked_fill(~exact_NK, -torch.inf).logsumexp(-1).clamp_max(-1e-7)
        outside_N = torch.xlogy(tail_N, tail_N) - tail_N * torch.log(-torch.expm1(left_N))
        return (mean(inside_NK) + mean(outside_N)) * t**2

    sparse = (labels.ids_QK, labels.logits_QK, exact_QK, tail_Q)
    return mean_over(formula, signals.weights_Q, signals.student_logits_QV, *sparse)
