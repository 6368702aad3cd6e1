"""Forward KL on standardised logits: the student need not match the teacher's scale, only its shape.

Each row is divided by its own standard deviation, a temperature per sample (Sun et al., CVPR 2024, arXiv 2403.01427).
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

    temperature: float = Field(
        2.0, gt=0, description="base temperature T after standardising. Source: arXiv 2403.01427"
    )


def standardised_kl(signals: Signals, params: Params) -> Tensor:
    """T^2 * mean over Q of KL(softmax(Z(teacher)/T) || softmax(Z(student)/T)); scalar, nats, >= 0.

    Z(z) = (z - mean) / std over V (n - 1 in the variance); zero for any student logits a * teacher + b with a > 0.
    Reads student_logits_QV and teacher_logits_QV. V >= 2.
    """
    t = params.temperature

    def formula(mean: Mean, student_NV: Tensor, teacher_NV: Tensor) -> Tensor:
        q, p = (F.log_softmax(_standardised(z_NV) / t, -1) for z_NV in (student_NV, teacher_NV))
        return mean(F.kl_div(q, p, log_target=True, reduction="none")) * t**2

    return over_logits(signals, formula)


def _standardised(z_NV: Tensor) -> Tensor:
    """Mean 0 and variance 1 per row. The small number is inside the root: a constant row has gradient 0, not NaN."""
    variance_N1, mean_N1 = torch.var_mean(z_NV, -1, keepdim=True)
    return (z_NV - mean_N1) * torch.rsqrt(variance_N1 + 1e-12)
