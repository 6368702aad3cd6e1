"""Cross entropy on hard labels: the task loss, and the whole of the control arm."""

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

    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share spread over all classes (arXiv 1512.00567)")


def cross_entropy(signals: Signals, params: Params) -> Tensor:
    """Mean over Q of -log q(target); scalar, nats. Reads student_logits_QV and targets_Q."""
    return F.cross_entropy(signals.student_logits_QV, signals.targets_Q, label_smoothing=params.label_smoothing)
