"""A penalty on confident answers (Pereyra et al., arXiv 1701.06548, section 3): a regulariser, weight absolute."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

from cluster.recipe.base import Section
from jobs.training.positions import Mean, mean_over

if TYPE_CHECKING:
    from jobs.training.losses import Signals


class Params(Section):
    """No parameters: how strong it is says its weight."""


def output_entropy(signals: Signals, params: Params) -> Tensor:
    """mean over Q of log V - H(q) = KL(q || uniform), q = softmax(student); scalar, nats, 0 to log V.

    The paper's -H(q) plus a constant: the same gradient, and never negative. Reads student_logits_QV.
    """
    bound = math.log(signals.student_logits_QV.shape[-1])

    def formula(mean: Mean, student_NV: Tensor) -> Tensor:
        q = F.log_softmax(student_NV, -1)
        return mean((q.exp() * (q + bound)).sum(-1))

    return mean_over(formula, signals.weights_Q, signals.student_logits_QV)
