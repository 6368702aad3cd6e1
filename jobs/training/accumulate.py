"""One optimizer step from the forward passes of its micro batches: the same update as from all rows at once.

Means are over the positions of the whole step, on all ranks: every piece counts by its share of them. The size that
brings a term to the scale of the first one is known only when all pieces were seen, so with several pieces they are
seen twice, the first time without gradients (a third more time, for memory of one piece).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from jobs.training.engine import Engine
from jobs.training.weighting import Balance

# Per term its mean over the piece's positions, and how much these count (None: one each); and how many there are.
Seen = tuple[Sequence[tuple[Tensor, Tensor | None]], int]
Forward = Callable[[np.ndarray], Seen]


class Update:
    """What takes one step: `forward` gives the terms of some rows, `total` is the step's positions over all ranks."""

    def __init__(self, engine: Engine, forward: Forward, total: float, balance: Balance) -> None:
        self.engine, self.forward, self.total, self.balance = engine, forward, total, balance

    def __call__(self, pieces: Sequence[np.ndarray], judge: Callable[[Tensor], None], look: bool) -> float | None:
        """Train on this rank's rows. `judge` sees the terms' means over all ranks before anything is learnt from them.

        Returns the gradient's norm before clipping where `look` asks for it, else None.
        """
        seen = [self.forward(pieces[0])] if len(pieces) == 1 else self._ahead(pieces)
        whole = self._whole(seen)
        values = self.engine.average(sum_of([self._terms(one, whole).detach() * self._share(one) for one in seen]))
        judge(values)
        scale, norm = self.balance.scale(values), None
        for rows in pieces:
            one = seen[0] if len(pieces) == 1 else self.forward(rows)
            norm = self.engine.step(self.balance.total(self._terms(one, whole), scale) * self._share(one), look)
        return norm

    def _ahead(self, pieces: Sequence[np.ndarray]) -> list[Seen]:
        """Every piece's terms without gradients; dropout draws the same numbers again when it is trained on."""
        with torch.random.fork_rng(), torch.no_grad():
            return [self.forward(rows) for rows in pieces]

    def _share(self, seen: Seen) -> float:
        """This piece's positions over the mean of what a rank has in the step."""
        return seen[1] * self.engine.world / self.total

    def _whole(self, seen: Sequence[Seen]) -> list[Tensor | None]:
        """Per term what its positions count over all pieces, mean over ranks; None where they count one each."""
        columns = zip(*(results for results, _ in seen), strict=True)
        return [self._mass([own for _, own in column]) for column in columns]

    def _mass(self, owns: Sequence[Tensor | None]) -> Tensor | None:
        counted = [own for own in owns if own is not None]
        return self.engine.average(sum_of(counted)).clamp_min(1e-12) if counted else None

    def _terms(self, seen: Seen, whole: Sequence[Tensor | None]) -> Tensor:
        """The piece's terms [T], those with weights of their own rescaled so that `_share` makes them right."""
        share = self._share(seen)
        return torch.stack(
            [
                term if own is None or mass is None else term * ((own / mass) / share)
                for (term, own), mass in zip(seen[0], whole, strict=True)
            ]
        )


def sum_of(values: Sequence[Tensor]) -> Tensor:
    """The sum of tensors of one shape; a new tensor, also of one."""
    total = values[0].clone()
    for value in values[1:]:
        total = total + value
    return total
