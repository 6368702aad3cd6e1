"""Which weights leave a stage: its last, its best on validation rows, or those from before it when it did not help."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cluster.recipe import Stage
from jobs.training.state import Progress

FILE = "kept.pt"
Weights = dict[str, Tensor]


class Keeper:
    """The weights that a stage may go back to, kept in its checkpoints; the numbers are in the run's progress."""

    def __init__(self, stage: Stage, network: nn.Module, progress: Progress, resumed: Path | None) -> None:
        """`resumed`: the checkpoint that the stage goes on from; None: `network` has the weights from before it."""
        self.stage, self.network, self.progress = stage, network, progress
        self.kept: dict[str, Weights] = {}
        if resumed is not None and (resumed / FILE).is_file():
            self.kept = torch.load(resumed / FILE, weights_only=True)
        elif stage.min_gain is not None:
            self.kept["before"] = _copy(network)

    def ends(self, metric: float) -> bool:
        """Take note of the primary metric on validation rows after a step; True: the stage has nothing more to gain."""
        progress, rule = self.progress, self.stage.early_stop
        progress.metric = metric
        if rule is None:
            return False
        if progress.best is None or metric > progress.best + rule.min_delta:
            progress.best, progress.worse = metric, 0
            self.kept["best"] = _copy(self.network)
        else:
            progress.worse += 1
        return progress.worse >= rule.patience

    def save(self, folder: Path) -> None:
        """Write what is kept beside a checkpoint in the middle of the stage."""
        if self.kept:
            torch.save(self.kept, folder / FILE)

    def take_best(self) -> None:
        """Put the best weights of an early-stopping stage into the network."""
        if "best" in self.kept:
            self._put("best")

    def undo_unless_better(self, before: Mapping[str, float], after: Mapping[str, float]) -> bool:
        """Whether the stage is kept; if not, the network has its weights from before again."""
        primary = next(iter(before))
        if self.stage.min_gain is None or after[primary] - before[primary] >= self.stage.min_gain:
            return True
        self._put("before")
        return False

    def _put(self, name: str) -> None:
        self.network.load_state_dict(self.kept[name])


def _copy(network: nn.Module) -> Weights:
    state: Mapping[str, Any] = network.state_dict()
    return {name: value.detach().cpu().clone() for name, value in state.items()}
