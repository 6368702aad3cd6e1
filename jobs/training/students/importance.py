"""How much a network would miss each of its heads, inner units and channels.

Shape legend: B rows, S tokens, H channels, N heads, D head size, I inner units.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jobs.training.students.axes import READERS, axes_of
from jobs.training.students.shape import Shape
from jobs.training.students.source import Source


@dataclass(frozen=True)
class Importance:
    """Scores, larger for what is missed more: channels [H], and per layer heads [N] and inner units [I]."""

    channels: Tensor
    heads: list[Tensor]
    units: list[Tensor]


def magnitude(source: Source, shape: Shape) -> Importance:
    """The Euclidean norm of all weights that read or write a part."""
    channels, layers = torch.zeros(shape.hidden_size), len(source.blocks)
    heads, units = torch.zeros(layers, shape.heads), torch.zeros(layers, shape.inner_size)
    for name, value in source.network.named_parameters():
        axes, squared = axes_of(shape.family, name), value.detach().float() ** 2
        within = name.startswith(source.prefix)
        number = int(name.removeprefix(source.prefix).partition(".")[0]) if within else 0
        for dimension, kind in enumerate(axes):
            others = [other for other in range(squared.dim()) if other != dimension]
            own = squared.sum(others) if others else squared
            if kind == "h":
                channels += own
            elif kind == "q":
                heads[number] += own.view(shape.heads, -1).sum(1)
            elif kind == "k":
                heads[number] += own.view(shape.kv_heads, -1).sum(1).repeat_interleave(shape.heads // shape.kv_heads)
            elif kind == "i":
                units[number] += own
    return Importance(channels.sqrt(), list(heads.sqrt()), list(units.sqrt()))


def taylor(source: Source, shape: Shape, rows: int) -> Importance:
    """Mean over tokens of |sum over D of activation x gradient| of a head, and of |activation x gradient| of a unit or
    channel, the latter summed over layers; the loss is the cross entropy on the rows' labels."""
    network, seen = source.network.eval(), _Seen(shape, len(source.blocks))
    with _watched(source, shape, seen):
        for batch in source.batches(rows):
            logits_QV, _ = source.task.scored(network, batch)
            network.zero_grad()
            F.cross_entropy(logits_QV, batch["targets"]).backward()  # type: ignore[no-untyped-call]
            seen.add()
    network.zero_grad()
    return Importance(seen.channels, list(seen.heads), list(seen.units))


class _Seen:
    """Activations of one batch that keep their gradients, and the sums so far."""

    def __init__(self, shape: Shape, layers: int) -> None:
        self.shape, self.caught = shape, list[tuple[str, int, Tensor]]()
        self.channels = torch.zeros(shape.hidden_size)
        self.heads, self.units = torch.zeros(layers, shape.heads), torch.zeros(layers, shape.inner_size)

    def catch(self, kind: str, number: int, value: Tensor) -> None:
        value.retain_grad()
        self.caught.append((kind, number, value))

    def add(self) -> None:
        for kind, number, value in self.caught:
            assert value.grad is not None
            change = (value.detach() * value.grad).float().flatten(0, -2)
            if kind == "heads":
                self.heads[number] += change.view(len(change), self.shape.heads, -1).sum(-1).abs().sum(0)
            elif kind == "units":
                self.units[number] += change.abs().sum(0)
            else:
                self.channels += change.abs().sum(0)
        self.caught.clear()


@contextlib.contextmanager
def _watched(source: Source, shape: Shape, seen: _Seen) -> Iterator[None]:
    """Inside the block, `seen` catches what the layers' readers get and what layers hand on."""
    mixed, inner = READERS[shape.family]
    with contextlib.ExitStack() as hooks:
        for number, block in enumerate(source.blocks):
            for kind, name in (("heads", mixed), ("units", inner)):
                handle = block.get_submodule(name).register_forward_pre_hook(_before(seen, kind, number))
                hooks.callback(handle.remove)
            handle = block.register_forward_hook(_after(seen, number))
            hooks.callback(handle.remove)
        yield


def _before(seen: _Seen, kind: str, number: int) -> Any:
    def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.catch(kind, number, inputs[0])

    return hook


def _after(seen: _Seen, number: int) -> Any:
    def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
        seen.catch("channels", number, output[0] if isinstance(output, tuple) else output)

    return hook
