"""Forward KL among the teacher's likeliest answers at T, and between them and all the rest at T=1.

At T=4 nearly all of a vocabulary's mass lies on tokens that are never an answer, and their order is noise; this form
softens only what the teacher considers (DESIGN, decision 1: the one truncated T=4 form that trains; findings, methods).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from cluster.recipe.base import Section
from jobs.training.positions import Mean, over_logits

if TYPE_CHECKING:
    from jobs.training.losses import Signals


class Params(Section):
    """Parameters of the term."""

    temperature: float = Field(4.0, gt=0, description="distillation temperature T among the likeliest (unitless)")
    likeliest: int = Field(
        10, ge=2, description="the teacher's likeliest answers per position, which are softened (count)"
    )


def conditional_kl(signals: Signals, params: Params) -> Tensor:
    """Mean over Q of T^2 * KL(p_T || q_T | top k) + KL of (top-k mass, tail mass) at T=1; scalar, nats, >= 0.

    Reads student_logits_QV and teacher_logits_QV; with k >= V the second part is zero and the first `forward_kl`.
    """
    t = params.temperature

    def formula(mean: Mean, student_NV: Tensor, teacher_NV: Tensor) -> Tensor:
        k = min(params.likeliest, teacher_NV.shape[-1])
        teacher_Nk, index_Nk = teacher_NV.topk(k)
        student_Nk = student_NV.gather(-1, index_Nk)
        q, p = F.log_softmax(student_Nk / t, -1), F.log_softmax(teacher_Nk / t, -1)
        inside = mean(F.kl_div(q, p, log_target=True, reduction="none")) * t**2
        if k == teacher_NV.shape[-1]:
            return inside
        b_p, b_q = _top_and_tail(teacher_Nk, teacher_NV), _top_and_tail(student_Nk, student_NV)
        return inside + mean(F.kl_div(b_q, b_p, log_target=True, reduction="none"))

    return over_logits(signals, formula)


def _top_and_tail(some_Nk: Tensor, every_NV: Tensor) -> Tensor:
    """Log mass of the chosen and of all others at T=1, [N, 2]; the tail by log(1 - e^x), exact where it is tiny."""
    top_N = (some_Nk.logsumexp(-1) - every_NV.logsumexp(-1)).clamp_max(-1e-7)
    return torch.stack([top_N, torch.log(-torch.expm1(top_N))], -1)
