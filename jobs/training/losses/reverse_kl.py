"""Reverse KL: the student is punished for what the teacher would not say (MiniLLM, arXiv 2306.08543, eq. 1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

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


def reverse_kl(signals: Signals, params: Params) -> Tensor:
    """T^2 * mean over Q of KL(q || p) = sum q (log q - log p), q = softmax(student/T); scalar, nats, >= 0.

    p = softmax(teacher/T). Mode-seeking: a small student keeps the teacher's likeliest answers and drops the rest.
    Reads student_logits_QV and teacher_logits_QV.
    """
    t = params.temperature

    def formula(mean: Mean, student_NV: Tensor, teacher_NV: Tensor) -> Tensor:
        student, teacher = F.log_softmax(student_NV / t, -1), F.log_softmax(teacher_NV / t, -1)
        return mean(F.kl_div(teacher, student, log_target=True, reduction="none")) * t**2

    return over_logits(signals, formula)
