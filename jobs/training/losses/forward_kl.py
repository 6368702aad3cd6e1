"""Forward KL on softened distributions: the soft-label loss of Hinton et al., arXiv 1503.02531, section 2."""

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

    temperature: float = Field(4.0, gt=0, description="distillation temperature T, not the generation temperature")


def forward_kl(signals: Signals, params: Params) -> Tensor:
    """T^2 * mean over Q of KL(softmax(teacher/T) || softmax(student/T)); scalar, nats, never negative.

    The factor T^2 keeps the gradient's size independent of T. Reads student_logits_QV and teacher_logits_QV.
    """
    t = params.temperature

    def formula(mean: Mean, student_NV: Tensor, teacher_NV: Tensor) -> Tensor:
        student, teacher = F.log_softmax(student_NV / t, -1), F.log_softmax(teacher_NV / t, -1)
        return mean(F.kl_div(student, teacher, log_target=True, reduction="none")) * t**2

    return over_logits(signals, formula)
