"""Depthwise-separable convolutional network: a picture classifier for small devices (MobileNet, arXiv 1704.04861).

A block is a 3x3 convolution of each channel by itself and a 1x1 convolution across channels (section 3.1): at 128
channels a ninth of the weights of a plain 3x3 convolution.

Shape legend: B rows, C channels, S pixels a side, H and W sides of a feature map.
"""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator
from torch import Tensor, nn

from cluster.recipe.base import Section


class SeparableParams(Section):
    """Sizes; the defaults have 85,850 parameters at one input channel and ten classes."""

    stem: int = Field(16, ge=4, description="channels of the first, plain 3x3 convolution (count)")
    stem_stride: int = Field(1, ge=1, le=2, description="step of the first convolution (pixels)")
    widths: list[int] = Field([48, 96, 144, 144, 256], min_length=1, description="channels after each block (count)")
    strides: list[int] = Field([2, 1, 2, 1, 1], min_length=1, description="step of each block, 1 or 2 (pixels)")

    @model_validator(mode="after")
    def blocks_are_whole(self) -> Self:
        """Refuse a block without a width or a step, and steps other than 1 and 2."""
        if len(self.widths) != len(self.strides) or min(self.widths) < 4 or set(self.strides) - {1, 2}:
            raise ValueError("as many strides (1 or 2) as widths (4 or more)")
        return self


class Separable(nn.Module):
    """`stages`, one block each."""

    def __init__(self, params: SeparableParams, channels: int) -> None:
        super().__init__()
        width = params.stem
        self.stem = unit(channels, width, 3, params.stem_stride)
        blocks = []
        for out, stride in zip(params.widths, params.strides, strict=True):
            blocks.append(nn.Sequential(unit(width, width, 3, stride, groups=width), unit(width, out, 1)))
            width = out
        self.stages, self.width = nn.ModuleList(blocks), width

    def forward(self, pixels_BCSS: Tensor) -> Tensor:
        """The last block's feature map [B, C, H, W]."""
        x_BCHW: Tensor = self.stem(pixels_BCSS)
        for stage in self.stages:
            x_BCHW = stage(x_BCHW)
        return x_BCHW


def unit(inside: int, out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution, batch normalisation, ReLU; the map keeps its side at stride 1."""
    convolution = nn.Conv2d(inside, out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(out), nn.ReLU())
