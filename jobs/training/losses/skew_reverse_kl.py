"""Skewed reverse KL, for answers the student wrote itself (DistiLLM, arXiv 2402.03898, section 3.1)."""

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
    alpha: float = Field(0.1, gt=0, lt=1, description="share of the student in the mixture (unitless)")


def skew_reverse_kl(signals: Signals, params: Params) -> Tensor:
    """T^2 * mean over Q of KL(q || (1 - alpha) p + alpha q); scalar, nats, 0 to T^2 * log(1 / alpha).

    p = softmax(teacher/T), q = softmax(student/T). Reads student_logits_QV and teacher_logits_QV.
    """
    t, alpha = params.temperature, params.alpha

    def formula(mean: Mean, student_NV: Tensor, teacher_NV: Tensor) -> Tensor:
        q, p = F.log_softmax(student_NV / t, -1), F.log_softmax(teacher_NV / t, -1)
        m = torch.logaddexp(p + math.log1p(-alpha), q + math.log(alpha))
        return mean(q.exp() * (q - m)) * t**2

    return over_logits(signals, formula)
