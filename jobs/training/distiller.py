"""The module that is trained: a network, the adapters of its layers, and what of its inside a stage's losses read.

Shape legend: B rows, S tokens, Q scored positions, V vocabulary or classes, W student width, H teacher width, N heads,
C channels, h w height and width of a map, M masked tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from jobs import tasks
from jobs.training.losses.input_gradient import gradient_of
from serving.models import layers, rotary


@dataclass(frozen=True)
class View:
    """What to look at beside logits and the last state: layer numbers, and of these attention and projections (of
    `heads`; empty: all); masked tokens; slopes by the input."""

    numbers: tuple[int, ...] = ()
    attention: bool = False
    heads: tuple[int, ...] = ()
    masked: bool = False
    slopes: bool = False


def look(task: tasks.Task, network: nn.Module, batch: Mapping[str, Tensor], view: View) -> dict[str, Any]:
    """`logits` [Q, V], `hidden` [Q, W] and `layers`: per number of the view a dict of `features` [Q, W] (or a map
    [B, C, h, w]), `maps` (attention [B, N, S, S], or that map) and `projections`; with the view's slopes `slopes`.
    """
    if view.slopes:
        return _sloped(task, network, batch, view)
    if not view.numbers:
        logits_QV, hidden_QW = task.scored(network, batch)
        return {"logits": logits_QV, "hidden": hidden_QW, "layers": []}
    assert isinstance(task, tasks.Layered)
    with layers.captured(task.blocks(network), view.numbers, view.attention) as seen:
        logits_QV, hidden_QW = task.scored(network, batch)
    shown, blocks = [], task.blocks(network)
    for number, own in zip(view.numbers, seen, strict=True):
        features = task.at_positions(own.states[-1], batch)
        one = {"features": features, "maps": features if features.dim() == 4 else None, "projections": None}
        if view.attention:
            assert isinstance(task, tasks.Attentive)
            block = blocks[layers.place(number, len(blocks))]
            one |= _attention((network, block), own.projections, task.real(batch), view.heads)
        shown.append(one)
    return {"logits": logits_QV, "hidden": hidden_QW, "layers": shown}


def _sloped(task: tasks.Task, network: nn.Module, batch: Mapping[str, Tensor], view: View) -> dict[str, Any]:
    """`look` with `slopes`, of the input's shape; where gradients are off all of it is detached."""
    assert isinstance(task, tasks.Sloped)
    own, learning = batch[task.sloped_input].detach().requires_grad_(), torch.is_grad_enabled()
    with torch.enable_grad():
        shown = look(task, network, {**batch, task.sloped_input: own}, replace(view, slopes=False))
        shown |= {"slopes": gradient_of(shown["logits"], batch["targets"], own)}
    return shown if learning else _detached(shown)


def _detached(shown: Any) -> Any:
    if isinstance(shown, dict):
        return {name: _detached(value) for name, value in shown.items()}
    if isinstance(shown, list):
        return [_detached(value) for value in shown]
    return shown.detach() if isinstance(shown, Tensor) else shown


def _attention(
    where: tuple[Any, Any], projections: Mapping[str, Tensor], mask_BS: Tensor, heads: Sequence[int]
) -> dict[str, Any]:
    """Attention maps [B, N, S, S] and projections {query, key, value: [B, S, W]} of the chosen heads; padding 0.

    `where`: the network and the layer. Key/value heads that several query heads share stand once per query head where
    heads are chosen.
    """
    network, block = where
    count, own = network.config.num_attention_heads, dict(projections)
    if rotary.turns(network):
        maps_BNSS = rotary.attention(network, block, own, mask_BS)
    else:
        maps_BNSS = layers.attention(own, count, mask_BS)
    if heads:
        keep = torch.tensor(heads, device=mask_BS.device)
        maps_BNSS = maps_BNSS.index_select(1, keep)
        size = own["query"].shape[-1] // count
        own = {name: _chosen(x.view(*mask_BS.shape, -1, size), keep, count) for name, x in own.items()}
    return {"maps": maps_BNSS * mask_BS[:, None, :, None], "projections": own}


def _chosen(x_BSKD: Tensor, keep: Tensor, count: int) -> Tensor:
    """The heads that query heads `keep` (of `count`) read, side by side."""
    return x_BSKD.index_select(2, keep * x_BSKD.shape[2] // count).flatten(2)


class Distiller(nn.Module):
    """A network and the adapters that lift its features to the teacher's width; the network alone is saved."""

    def __init__(
        self, task: tasks.Task, network: nn.Module, adapters: Sequence[nn.Module], view: View | None = None
    ) -> None:
        super().__init__()
        self.task, self.network, self.adapters = task, network, nn.ModuleList(adapters)
        self.view = view or View()

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Any]:
        """What `look` gives; `adapted`: of the last state, or of every layer, [Q, H] each, [] without adapters;
        `masked`: logits [M, V] and tokens [M], or None."""
        shown = look(self.task, self.network, batch, self.view)
        features = [one["features"] for one in shown["layers"]] if self.view.numbers else [shown["hidden"]]
        lifted = zip(self.adapters, features, strict=True) if len(self.adapters) else ()
        masked = self.task.masked(self.network, batch) if self._masks(self.task) else None
        return shown | {"adapted": [adapter(own) for adapter, own in lifted], "masked": masked}

    def _masks(self, task: tasks.Task) -> TypeGuard[tasks.Masking]:
        return self.view.masked
