"""L2 to the weights that training started from (L2-SP, arXiv 1802.01483, eq. 1): a regulariser, weight absolute."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cluster.recipe.base import Section

if TYPE_CHECKING:
    from jobs.training.losses import Signals


class Params(Section):
    """No parameters: the paper's alpha is the term's weight."""


def initial_weights(signals: Signals, params: Params) -> Tensor:
    """1/2 sum ||w - w_0||^2 over all learning parameters; scalar, squared weights, 0 at the start.

    Reads start_weights: pairs (parameter, its value before the run's first stage, heads merged as now).
    """
    assert signals.start_weights is not None
    return torch.stack([(now.float() - then.float()).pow(2).sum() for now, then in signals.start_weights]).sum() / 2
