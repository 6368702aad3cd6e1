"""Decoupled distillation: how sure the target is, and how the others share the rest, each with its own weight.

In forward KL the second part is multiplied by 1 - p(target), so that a confident teacher teaches least about what it
knows best (Zhao et al., arXiv 2203.08679, eq. 7).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from cluster.recipe.base import Section
from jobs.training.positions import Mean, mean_over

if TYPE_CHECKING:
    from jobs.training.losses import Signals


class Params(Section):
    """Parameters of the term."""

    temperature: float = Field(4.0, gt=0, description="distillation temperature T. Source: arXiv 2203.08679, CIFAR-100")
    alpha: float = Field(1.0, ge=0, description="weight of target against all others. Source: arXiv 2203.08679")
    beta: float = Field(8.0, ge=0, description="weight of the shares among the others. Source: arXiv 2203.08679, 2-10")


def decoupled_kd(signals: Signals, params: Params) -> Tensor:
    """T^2 * mean over Q of alpha KL(b_p || b_q) + beta KL(p^ || q^); scalar, nats, >= 0.

    b = [softmax(z/T) of the target, the rest of the mass]; p^ and q^ are the softmax of z/T over the V - 1 others.
    Reads student_logits_QV, teacher_logits_QV and targets_Q. V >= 2.
    """
    t = params.temperature
    assert signals.teacher_logits_QV is not None

    def formula(mean: Mean, student_NV: Tensor, teacher_NV: Tensor, target_N: Tensor) -> Tensor:
        (b_q, others_q), (b_p, others_p) = (_split(z_NV / t, target_N) for z_NV in (student_NV, teacher_NV))
        target = mean(F.kl_div(b_q, b_p, log_target=True, reduction="none"))
        others = mean(F.kl_div(others_q, others_p, log_target=True, reduction="none"))
        return (params.alpha * target + params.beta * others) * t**2

    return mean_over(
        formula, signals.weights_Q, signals.student_logits_QV, signals.teacher_logits_QV, signals.targets_Q
    )


def _split(z_NV: Tensor, target_N: Tensor) -> tuple[Tensor, Tensor]:
    """Log mass of the target and of all others [N, 2]; log-probabilities among the others [N, V - 1].

    The target is taken out by index: masked with minus infinity, the backward pass gives NaN.
    """
    place_O = torch.arange(z_NV.shape[-1] - 1, device=z_NV.device)
    others_NO = z_NV.gather(-1, place_O + (place_O >= target_N[:, None]).long())
    parts_N2 = torch.stack([z_NV.gather(-1, target_N[:, None])[:, 0], others_NO.logsumexp(-1)], -1)
    return F.log_softmax(parts_N2, -1), F.log_softmax(others_NO, -1)
