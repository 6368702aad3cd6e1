"""Small residual network for small pictures: the teacher that `jobs fit` trains itself (arXiv 1512.03385).

Transformers' ResNet halves a picture twice before its first stage, which leaves 7x7 of a 28x28 picture; here the stem
keeps every pixel and each stage halves the map.

Shape legend: B rows, C channels, S pixels a side, H and W sides of a feature map.
"""

from __future__ import annotations

from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from cluster.recipe.base import Section
from serving.models.separable import unit


class ResNetParams(Section):
    """Sizes; the defaults have 1,209,834 parameters at one input channel and ten classes."""

    stem: int = Field(32, ge=4, description="channels of the first 3x3 convolution (count)")
    widths: list[int] = Field([64, 128, 256], min_length=1, description="channels of each stage (count)")
    depths: list[int] = Field([1, 1, 1], min_length=1, description="blocks of two 3x3 convolutions per stage (count)")

    @model_validator(mode="after")
    def stages_are_whole(self) -> Self:
        """Refuse a stage without a width or without a block."""
        if len(self.widths) != len(self.depths) or min(self.widths) < 4 or min(self.depths) < 1:
            raise ValueError("as many depths (1 or more) as widths (4 or more)")
        return self


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which is a 1x1 convolution where the shape changes (figure 2, eq. 2)."""

    def __init__(self, inside: int, out: int, stride: int) -> None:
        super().__init__()
        self.first = unit(inside, out, 3, stride)
        self.second = nn.Sequential(nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out))
        changed = inside != out or stride != 1
        projection = nn.Sequential(nn.Conv2d(inside, out, 1, stride, bias=False), nn.BatchNorm2d(out))
        self.shortcut = projection if changed else nn.Identity()

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """The next map; sides halved at stride 2."""
        return torch.relu(self.second(self.first(x_BCHW)) + self.shortcut(x_BCHW))


class ResNet(nn.Module):
    """`stages` of blocks; the first block of each halves the map."""

    def __init__(self, params: ResNetParams, channels: int) -> None:
        super().__init__()
        width, stages = params.stem, []
        self.stem = unit(channels, width, 3)
        for out, depth in zip(params.widths, params.depths, strict=True):
            stages.append(nn.Sequential(Block(width, out, 2), *(Block(out, out, 1) for _ in range(depth - 1))))
            width = out
        self.stages, self.width = nn.ModuleList(stages), width

    def forward(self, pixels_BCSS: Tensor) -> Tensor:
        """The last stage's feature map [B, C, H, W]."""
        x_BCHW: Tensor = self.stem(pixels_BCSS)
        for stage in self.stages:
            x_BCHW = stage(x_BCHW)
        return x_BCHW
