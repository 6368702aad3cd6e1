"""Generalised Jensen-Shannon divergence, between forward and reverse KL (GKD, arXiv 2306.13649, eq. 1)."""

from __future__ import annotations

import math
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

    temperature: float = Field(1.0, gt=0, description="distillation temperature T of both sides (unitless)")
    beta: float = Field(
        0.5, gt=0, lt=1, description="share of the teacher in the mixture; near 0 like forward, near 1 like reverse KL"
    )


def jensen_shannon(signals: Signals, params: Params) -> Tensor:
    """T^2 * mean over Q of beta KL(p || m) + (1 - beta) KL(q || m), m = beta p + (1 - beta) q; scalar, nats, >= 0.

    p = softmax(teacher/T), q = softmax(student/T). Bounded by the entropy of beta (log 2 at .5) times T^2, so no
    single position can rule a batch. Divided by beta it tends to forward KL as beta tends to 0.
    Reads student_logits_QV and teacher_logits_QV.
    """
    t, beta = params.temperature, params.beta

    def formula(mean: Mean, student_NV: Tensor, teacher_NV: Tensor) -> Tensor:
        q, p = F.log_softmax(student_NV / t, -1), F.log_softmax(teacher_NV / t, -1)
        m = torch.logaddexp(p + math.log(beta), q + math.log1p(-beta))
        return mean(beta * p.exp() * (p - m) + (1 - beta) * q.exp() * (q - m)) * t**2

    return over_logits(signals, formula)
