"""The fitted teacher as a source of weights: its network, its layers, and training rows to judge its parts by.

Shape legend: R rows, Q scored positions, H hidden size, L layers.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from jobs import tasks
from jobs.training import table
from serving.models import dual_encoder, encoder, layers, omni

BATCH = 32  # rows at once


@dataclass(frozen=True)
class Source:
    """A teacher's `network`, the `task` it was fitted on, and the recipe's seed."""

    task: tasks.Task
    network: nn.Module
    seed: int

    @cached_property
    def config(self) -> Any:
        """The transformers config of the network."""
        return copy.deepcopy(self.network.config)

    @cached_property
    def blocks(self) -> Sequence[nn.Module]:
        """The layers in order."""
        assert isinstance(self.task, tasks.Layered)
        return self.task.blocks(self.network)

    @cached_property
    def prefix(self) -> str:
        """What the names of a layer's parameters begin with, before its number."""
        for name, module in self.network.named_modules():
            if isinstance(module, nn.ModuleList) and len(module) and module[0] is self.blocks[0]:
                return f"{name}."
        raise ValueError(f"no_layers: {type(self.network).__name__} keeps its layers in no list")

    def batches(self, rows: int) -> Iterator[dict[str, Tensor]]:
        """Batches of at most `rows` training rows, spread evenly over them, with their true labels."""
        columns = self.task.fit_columns()
        count = table.rows(columns)
        chosen = np.unique(np.linspace(0, count - 1, min(rows, count)).astype(int))
        for start in range(0, len(chosen), BATCH):
            yield self.task.batch(columns, chosen[start : start + BATCH])

    @torch.no_grad()
    def states(self, rows: int) -> list[np.ndarray]:
        """Every layer's features at the scored positions of `rows` training rows, float32 [Q, H] each, L of them."""
        assert isinstance(self.task, tasks.Layered)
        self.network.eval()
        parts: list[list[np.ndarray]] = [[] for _ in self.blocks]
        for batch in self.batches(rows):
            with layers.captured(self.blocks, range(1, len(self.blocks) + 1)) as seen:
                self.task.scored(self.network, batch)
            for own, one in zip(parts, seen, strict=True):
                own.append(self.task.at_positions(one.states[-1], batch).float().cpu().numpy())
        return [np.concatenate(own) for own in parts]


def rebuilt(network: nn.Module, config: Any, state: Mapping[str, Tensor]) -> nn.Module:
    """A network of the same kind with another config and these parameters, by the names of the whole network."""
    own: Any = network
    fresh: nn.Module
    if hasattr(config, "text_config"):  # layers of one part of several
        fresh = omni.rebuilt(own, config, state)
    elif isinstance(network, (encoder.TextClassifier, dual_encoder.DualEncoder)):
        fresh = network.rebuilt(config, state)
    else:
        fresh = type(own)(config)
        fresh.load_state_dict(dict(state))
    return fresh
