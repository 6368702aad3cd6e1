"""Mean squared error between adapted student features and the teacher's, in units of the teacher's variance.

FitNets (arXiv 1412.6550, eq. 3) with the scale taken out, so that 0.3 in a recipe means the same for any teacher.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from cluster.recipe.base import Section

if TYPE_CHECKING:
    from jobs.training.losses import Signals


class Params(Section):
    """No parameters: the layer is chosen when the teacher's states are cached (`generate.hidden_layer`)."""


def hidden_mse(signals: Signals, params: Params) -> Tensor:
    """mean((student - teacher)^2) / mean per-feature variance of the teacher over Q; scalar, 1 = predicting the mean.

    Reads student_hidden_QH (already through the adapter, so both have the teacher's H) and teacher_hidden_QH.
    """
    assert signals.student_hidden_QH is not None
    assert signals.teacher_hidden_QH is not None
    teacher_QH = signals.teacher_hidden_QH
    variance = teacher_QH.var(0, unbiased=False).mean().clamp_min(1e-6)
    return (signals.student_hidden_QH - teacher_QH).pow(2).mean() / variance
