"""Which tokens were hidden: masked language modelling of the student itself (BERT, arXiv 1810.04805, section 3.1).

Teaches a fresh encoder the syntax of the texts before a teacher's answers teach it what they mean; no label is read.
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
    """No parameters: which share of the tokens is hidden is the task's (15 %, as in BERT)."""


def masked_tokens(signals: Signals, params: Params) -> Tensor:
    """mean of -log softmax(logits)_token over the masked positions; scalar, nats, log V = chance. 0 without any.

    Reads masked_logits_MV and masked_targets_M.
    """
    assert signals.masked_logits_MV is not None
    assert signals.masked_targets_M is not None
    if not len(signals.masked_targets_M):
        return signals.masked_logits_MV.sum()
    return F.cross_entropy(full(signals.masked_logits_MV), signals.masked_targets_M)
