"""Operations and layers that become few ONNX nodes: shapes are constants of the graph, one product stands for many."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Reshape(torch.autograd.Function):
    """`reshape` whose shape is a constant of the graph: 0 keeps a dimension, as in ONNX, so no sizes are computed."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, shape: tuple[int, ...]) -> Tensor:
        """The reshaped tensor."""
        return value.reshape(_sizes(value, shape))

    @staticmethod
    def symbolic(g: Any, value: Any, shape: tuple[int, ...]) -> Any:
        """The ONNX node."""
        out = g.op("Reshape", value, g.op("Constant", value_t=torch.tensor(shape)))
        return out.setType(value.type().with_sizes([size if size > 0 else None for size in shape]))


def _sizes(value: Tensor, shape: tuple[int, ...]) -> list[int]:
    return [value.shape[axis] if size == 0 else size for axis, size in enumerate(shape)]


def reshape(value: Tensor, *shape: int) -> Tensor:
    """See `Reshape`; TorchScript has no place for it and computes the sizes."""
    if not torch.onnx.is_in_onnx_export():
        return value.reshape(_sizes(value, shape))
    return Reshape.apply(value, shape)  # type: ignore[no-any-return, no-untyped-call]


def rotate(value: Tensor, cos: Tensor, sin: Tensor, size: int) -> Tensor:
    """Rotary embedding over the last axis, `size` long; the first half of `sin` has its sign turned."""
    left, right = torch.split(value, size // 2, -1)
    return value * cos + torch.cat([right, left], -1) * sin


def half_turned(size: int) -> Tensor:
    """Signs [size] that make a sine what `rotate` takes."""
    return torch.cat([-torch.ones(size // 2), torch.ones(size // 2)])


def joined(*layers: Any) -> nn.Linear:
    """Several linear layers over one input as one, their outputs side by side."""
    whole = nn.Linear(layers[0].in_features, sum(layer.out_features for layer in layers), layers[0].bias is not None)
    whole.weight = nn.Parameter(torch.cat([layer.weight.detach() for layer in layers]))
    if layers[0].bias is not None:
        whole.bias = nn.Parameter(torch.cat([layer.bias.detach() for layer in layers]))
    return whole
