"""Cosine distance between adapted student features and the teacher's: direction without length.

DistilBERT, arXiv 1910.01108, section 3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

from cluster.recipe.base import Section
from jobs.training.positions import full

if TYPE_CHECKING:
    from jobs.training.losses import Signals


class Params(Section):
    """No parameters: the layer is chosen when the teacher's states are cached (`generate.hidden_layer`)."""


def hidden_cosine(signals: Signals, params: Params) -> Tensor:
    """mean over Q of 1 - cos(student, teacher); scalar, 0 to 2.

    Reads student_hidden_QH (through the adapter, so both have the teacher's H) and teacher_hidden_QH.
    """
    assert signals.student_hidden_QH is not None
    assert signals.teacher_hidden_QH is not None
    student_QH, teacher_QH = full(signals.student_hidden_QH), full(signals.teacher_hidden_QH)
    return (1 - F.cosine_similarity(student_QH, teacher_QH, dim=-1)).mean()
