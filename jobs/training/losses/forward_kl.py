"""Forward KL on softened distributions: the soft-label loss of Hinton et al., arXiv 1503.02531, section 2."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from cluster.recipe.base import Section

if TYPE_CHECKING:
    from jobs.training.losses import Signals


class Params(Section):
    """Parameters of the term."""

    temperature: float = Field(4.0, gt=0, description="distillation temperature T, not the generation temperature")


def forward_kl(signals: Signals, params: Params) -> Tensor:
    """T^2 * mean over Q of KL(softmax(teacher/T) || softmax(student/T)); scalar, nats, never negative.

    The factor T^2 keeps the gradient's size independent of T. Reads student_logits_QV and teacher_logits_QV.
    """
    assert signals.teacher_logits_QV is not None
    t = params.temperature
    student = F.log_softmax(signals.student_logits_QV / t, -1)
    teacher = F.log_softmax(signals.teacher_logits_QV / t, -1)
    return F.kl_div(student, teacher, log_target=True, reduction="batchmean") * t**2
