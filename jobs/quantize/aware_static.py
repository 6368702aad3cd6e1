"""Training for scheme `static`: a convolutional net that rounds where the exported graph will.

Weights as export rounds them: signed, one scale per output channel, -127 to 127 (batch normalisation, which export
folds into them, scales whole channels and so changes no code). Activations unsigned with one range for the tensor, zero
in it, at the places that the graph quantizes: in front of every convolution and linear layer, what is added to a
shortcut, the last map and the logits. A range is that of the batch at hand, where export has one of calibration rows:
so nothing is kept between steps, and a resumed run rounds as the one before.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from cluster.errors import RecipeError

CODES, STEPS = 127, 255  # weights: -127 to 127; activations: 0 to 255


@contextlib.contextmanager
def rounding(network: nn.Module) -> Iterator[None]:
    """Inside the block convolutions, linear layers and what is added after them round; parameters keep their names.

    Raises RecipeError for a network without convolutions.
    """
    chosen = [
        (owner, name, layer)
        for owner in network.modules()
        for name, layer in owner.named_children()
        if type(layer) in (nn.Conv2d, nn.Linear)
    ]
    if not any(isinstance(layer, nn.Conv2d) for _, _, layer in chosen):
        raise RecipeError("quantize: the network has no convolution", got=type(network).__name__)
    with contextlib.ExitStack() as hooks:
        for module in _rounded_after(network):
            hooks.callback(module.register_forward_hook(_round_output).remove)
        for owner, name, layer in chosen:
            setattr(owner, name, _Rounding(layer).train(layer.training))
        try:
            yield
        finally:
            for owner, name, layer in chosen:  # they share their parameters with what rounded
                setattr(owner, name, layer.train(owner.training))


class _Rounding(nn.Module):
    """A convolution or linear layer over rounded inputs and weights; a linear layer's outputs are rounded too."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias
        self._layer = (layer,)  # in a tuple: its parameters are this module's, once

    @property
    def in_features(self) -> int:
        """Of a linear layer."""
        return int(self._layer[0].in_features)

    @property
    def out_features(self) -> int:
        """Of a linear layer."""
        return int(self._layer[0].out_features)

    def forward(self, x: Tensor) -> Tensor:
        """What the layer gives."""
        (layer,) = self._layer
        x, weight = activations(x), weights(self.weight)
        if isinstance(layer, nn.Conv2d):
            out: Tensor = layer._conv_forward(x, weight, self.bias)
            return out
        return activations(nn.functional.linear(x, weight, self.bias))


def weights(values: Tensor) -> Tensor:
    """Values [out, ...] rounded to signed codes with one scale per output channel; the gradient goes straight
    through."""
    peak = values.detach().flatten(1).abs().amax(1)
    scale = torch.where(peak > 0, peak / CODES, torch.ones_like(peak))
    zero = torch.zeros_like(scale, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(values, scale, zero, 0, -CODES, CODES)


def activations(values: Tensor) -> Tensor:
    """Values rounded to unsigned codes over their own range, which has zero in it; the gradient goes straight
    through."""
    low, high = values.detach().aminmax()
    low, high = low.clamp(max=0), high.clamp(min=0)
    scale = ((high - low) / STEPS).clamp_min(torch.finfo(values.dtype).tiny)
    zero = (-low / scale).round().clamp(0, STEPS).to(torch.int32)
    return torch.fake_quantize_per_tensor_affine(values, scale, zero, 0, STEPS)


def _rounded_after(network: Any) -> list[nn.Module]:
    """Modules whose output the graph quantizes and no convolution reads first: the backbone's map, and a normalisation
    that ends its part, for what follows adds it to a shortcut."""
    ends = [module[-1] for module in network.modules() if isinstance(module, nn.Sequential) and len(module)]
    found: list[nn.Module] = [end for end in ends if isinstance(end, nn.BatchNorm2d)]
    return [*found, *([network.backbone] if hasattr(network, "backbone") else [])]


def _round_output(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
    return activations(output)
