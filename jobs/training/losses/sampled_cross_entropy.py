"""Cross entropy against soft labels that hold some tokens of a large vocabulary with importance weights.

Sparse Logit Sampling, arXiv 2503.16870: draws from the teacher's own distribution give the full vocabulary's gradient
in the mean, which no truncated list does (DESIGN, decision 1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from cluster.recipe.base import Section
from jobs.training.positions import Mean, mean_over

if TYPE_CHECKING:
    from jobs.training.losses import Signals


class Params(Section):
    """Parameters of the term."""

    temperature: float = Field(1.0, gt=0, description="distillation temperature T; the draws' own has the least noise")
    normalised: bool = Field(
        False, description="divide the weights by their sum: less noise and a bias of order 1/draws where T is another"
    )


def sampled_cross_entropy(signals: Signals, params: Params) -> Tensor:
    """T^2 * mean over Q of -sum_k w_k(T) log q_T(id_k); scalar, nats, never negative.

    Its gradient's mean over draws is that of `forward_kl`; its value lies above it by T^2 times the teacher's entropy.
    Reads student_logits_QV and teacher_sparse. Raises MismatchError as `SparseLabels.weights`.
    """
    labels, t = signals.teacher_sparse, params.temperature
    assert labels is not None

    def formula(mean: Mean, logits_NV: Tensor, ids_NK: Tensor, weight_NK: Tensor) -> Tensor:
        log_q_NK = F.log_softmax(logits_NV / t, -1).gather(-1, ids_NK)
        return -mean(weight_NK.to(log_q_NK.dtype) * log_q_NK) * t**2

    weight_QK = labels.weights(t, params.normalised)
    return mean_over(formula, signals.weights_Q, signals.student_logits_QV, labels.ids_QK, weight_QK)
