"""Student and teacher features of one position must find each other among a batch (CLIP, arXiv 2103.00020, figure 3).

Teaches a text student the space of a CLIP-like teacher: InfoNCE (arXiv 1807.03748, eq. 4) in both directions, as in
contrastive representation distillation (arXiv 1910.10699).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from cluster.recipe.base import Section
from jobs.training.positions import full

if TYPE_CHECKING:
    from jobs.training.losses import Signals


class Params(Section):
    """Parameters of the term."""

    temperature: float = Field(0.07, gt=0, description="divisor of cosines (unitless). Source: CLIP's start value")


def contrastive(signals: Signals, params: Params) -> Tensor:
    """Mean over Q of (-log softmax(s_i . t / T)_i - log softmax(t_i . s / T)_i) / 2, unit vectors; scalar, nats, >= 0.

    The other positions of the (rank's own) batch are the negatives; log Q is chance. Not zero for equal features.
    Reads student_hidden_QH (through the adapter, so both have the teacher's H) and teacher_hidden_QH.
    """
    assert signals.student_hidden_QH is not None
    assert signals.teacher_hidden_QH is not None
    student_QH, teacher_QH = (
        F.normalize(full(x), dim=-1) for x in (signals.student_hidden_QH, signals.teacher_hidden_QH)
    )
    cosine_QQ = student_QH @ teacher_QH.T / params.temperature
    own_Q = torch.arange(len(cosine_QQ), device=cosine_QQ.device)
    return (F.cross_entropy(cosine_QQ, own_Q) + F.cross_entropy(cosine_QQ.T, own_Q)) / 2
