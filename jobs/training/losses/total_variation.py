"""Total variation distance, symmetric and bounded (f-DISTILL, arXiv 2307.15190, section 3.1)."""

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


def total_variation(signals: Signals, params: Params) -> Tensor:
    """T * mean over Q of 1/2 sum |p - q|, p = softmax(teacher/T), q = softmax(student/T); scalar, 0 to T.

    The factor is T and not T^2: the distance is of first order in the difference of the logits, so T alone keeps the
    gradient's size. Reads student_logits_QV and teacher_logits_QV.
    """
    t = params.temperature

    def formula(mean: Mean, student_NV: Tensor, teacher_NV: Tensor) -> Tensor:
        return mean((F.softmax(teacher_NV / t, -1) - F.softmax(student_NV / t, -1)).abs()) * (t / 2)

    return over_logits(signals, formula)
