"""Depthwise-separable convolutional network: a picture classifier for small devices (MobileNet, arXiv 1704.04861).

A block is a 3x3 convolution of each channel by itself and a 1x1 convolution across channels (section 3.1): at 128
channels a ninth of the weights of a plain 3x3 convolution.

The network itself is `networks.Separable`.
"""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

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
