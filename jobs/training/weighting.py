"""Loss terms on one scale: each is brought to the size of the first, so that 0.7 : 0.3 are the shares that train.

Raw terms differ by orders of magnitude (DESIGN, decision 2); the realised shares are logged at every step. The sum
keeps the first term's own scale: divided by it instead, gradients stay as long as the clip allows to the very end, and
the digits student ended at .84 on validation instead of .95.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

DECAY = 0.98  # about fifty steps of memory: slow enough to average batches, fast enough to follow training


class Balance:
    """Running means of the terms, which the checkpoint keeps. Only their ratios count, so no bias is corrected."""

    def __init__(self, weights: Sequence[float], means: Sequence[float] | None = None) -> None:
        self.weights = torch.tensor(weights, dtype=torch.float64)
        self.means = torch.tensor(means or [0.0] * len(weights), dtype=torch.float64)
        self.shares = [1.0 / len(weights)] * len(weights)
        self._sum, self._steps = torch.zeros(len(weights), dtype=torch.float64), 0

    def __call__(self, terms: Sequence[Tensor], values: Tensor) -> Tensor:
        """Weighted sum of the terms, each times (running mean of the first) / (its own).

        `values` are the terms averaged over ranks, detached.
        """
        now = values.to("cpu", torch.float64)
        self.means = DECAY * self.means + (1 - DECAY) * now
        scale = self.weights * self.means[0] / self.means.clamp_min(1e-12)
        share = scale * now / (scale * now).sum().clamp_min(1e-12)
        self.shares, self._sum, self._steps = share.tolist(), self._sum + share, self._steps + 1
        return torch.stack([term * float(factor) for term, factor in zip(terms, scale, strict=True)]).sum()

    @property
    def mean_shares(self) -> list[float]:
        """Realised share of each term, averaged over the steps of this process; they sum to 1."""
        return (self._sum / max(1, self._steps)).tolist()
