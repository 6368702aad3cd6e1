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
    assert signals.teacher_logits_QV is not None
    k, t = min(params.likeliest, signals.teacher_logits_QV.shape[-1]), params.temperature
    teacher_Qk, index_Qk = signals.teacher_logits_QV.topk(k)
    student_Qk = signals.student_logits_QV.gather(-1, index_Qk)
    inside = F.kl_div(
        F.log_softmax(student_Qk / t, -1), F.log_softmax(teacher_Qk / t, -1), log_target=True, reduction="batchmean"
    )
    if k == signals.teacher_logits_QV.shape[-1]:
        return inside * t**2
    p, q = (
        _top_and_tail(some, every)
        for some, every in ((teacher_Qk, signals.teacher_logits_QV), (student_Qk, signals.student_logits_QV))
    )
    return inside * t**2 + F.kl_div(q, p, log_target=True, reduction="batchmean")


def _top_and_tail(some_Qk: Tensor, every_QV: Tensor) -> Tensor:
    """Log mass of the chosen and of all others at T=1, [Q, 2]; the tail by log(1 - e^x), exact where it is tiny."""
    top_Q = (some_Qk.logsumexp(-1) - every_QV.logsumexp(-1)).clamp_max(-1e-7)
    return torch.stack([top_Q, torch.log(-torch.expm1(top_Q))], -1)
