"""Squared error of centred logits (Ba and Caruana, arXiv 1312.6184, eq. 1; against KL: arXiv 2105.08919)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from cluster.recipe.base import Section
from jobs.training.positions import Mean, over_logits

if TYPE_CHECKING:
    from jobs.training.losses import Signals


class Params(Section):
    """No parameters: this is what forward KL tends to, but for a factor, at high temperature."""


def logit_mse(signals: Signals, params: Params) -> Tensor:
    """mean over Q and V of ((student - its mean over V) - (teacher - its mean over V))^2; scalar, squared logits.

    Centred, because a softmax knows no common shift and cached logits are stored minus their maximum.
    Reads student_logits_QV and teacher_logits_QV.
    """

    def formula(mean: Mean, student_NV: Tensor, teacher_NV: Tensor) -> Tensor:
        difference_NV = student_NV - teacher_NV
        return mean((difference_NV - difference_NV.mean(-1, keepdim=True)).pow(2).mean(-1))

    return over_logits(signals, formula)
