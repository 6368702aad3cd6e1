"""Cross entropy on hard labels: the task loss, and the whole of the control arm."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from cluster.recipe.base import Section
from jobs.training.positions import Mean, full, mean_over, rows_at_once

if TYPE_CHECKING:
    from jobs.training.losses import Signals


class Params(Section):
    """Parameters of the term."""

    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share spread over all classes (arXiv 1512.00567)")


def cross_entropy(signals: Signals, params: Params) -> Tensor:
    """Mean over Q of -(1 - s) log q(target) - s/V sum log q, s the smoothing; scalar, nats.

    Reads student_logits_QV and targets_Q.
    """
    logits_QV, targets_Q, smoothing = signals.student_logits_QV, signals.targets_Q, params.label_smoothing
    if signals.weights_Q is None and len(logits_QV) <= rows_at_once(logits_QV.shape[-1]):
        return F.cross_entropy(full(logits_QV), targets_Q, label_smoothing=smoothing)  # one fused kernel

    def formula(mean: Mean, logits_NV: Tensor, targets_N: Tensor) -> Tensor:
        return mean(F.cross_entropy(logits_NV, targets_N, label_smoothing=smoothing, reduction="none"))

    return mean_over(formula, signals.weights_Q, logits_QV, targets_Q)
