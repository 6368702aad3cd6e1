"""Distance between two sets of hidden states after the best rotation of one onto the other, without an adapter.

Zero exactly where all angles and relative lengths agree (arXiv 2509.25253; Schoenemann 1966 for the rotation).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from cluster.recipe.base import Section
from jobs.training.positions import full

if TYPE_CHECKING:
    from jobs.training.losses import Signals


class Params(Section):
    """No parameters: the layer is chosen when the teacher's states are cached (`generate.hidden_layer`)."""


def hidden_procrustes(signals: Signals, params: Params) -> Tensor:
    """min over orthogonal R of ||A R - B||_F^2 = 2 - 2 ||A^T B||_*; scalar, 0 to 2.

    A and B are the student's and the teacher's states minus their mean over Q, of Frobenius norm 1; widths may differ
    (the narrower counts as padded with zeros). One singular value decomposition of [W, H] a step.
    Reads student_features_QW (no adapter) and teacher_hidden_QH.
    """
    assert signals.student_features_QW is not None
    assert signals.teacher_hidden_QH is not None
    a_QW, b_QH = (_unit(full(x)) for x in (signals.student_features_QW, signals.teacher_hidden_QH))
    # Only the values: their derivative U V^T has no differences of singular values in it that could vanish.
    nuclear: Tensor = torch.linalg.svdvals(a_QW.T @ b_QH).sum()
    return 2 - 2 * nuclear


def _unit(x_QW: Tensor) -> Tensor:
    return F.normalize((x_QW - x_QW.mean(0)).flatten(), dim=0).view_as(x_QW)
