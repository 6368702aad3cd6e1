"""The teacher's margins between a question's own entry and every other candidate (arXiv 2010.02666, section 3.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

from cluster.recipe.base import Section
from jobs.training.positions import Mean, mean_over

if TYPE_CHECKING:
    from jobs.training.losses import Signals


class Params(Section):
    """No parameters."""


def margin_mse(signals: Signals, params: Params) -> Tensor:
    """Mean over Q and the V - 1 other candidates j of ((s_y - s_j) - (t_y - t_j))^2, y the target; scalar, squared
    logits, never negative. The paper draws one j per question, here all candidates of the batch stand.

    Margins are blind to a common shift. Reads student_logits_QV, teacher_logits_QV and targets_Q.
    """
    assert signals.teacher_logits_QV is not None

    def formula(mean: Mean, student_NV: Tensor, teacher_NV: Tensor, targets_N: Tensor) -> Tensor:
        difference_NV = student_NV - teacher_NV
        own_N1 = difference_NV.gather(1, targets_N[:, None])
        others = max(1, difference_NV.shape[1] - 1)  # the target's own column is 0
        return mean(F.mse_loss(difference_NV, own_N1.expand_as(difference_NV), reduction="none")) / others

    return mean_over(
        formula, signals.weights_Q, signals.student_logits_QV, signals.teacher_logits_QV, signals.targets_Q
    )
