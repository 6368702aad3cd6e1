"""Small residual network for small pictures: the teacher that `jobs fit` trains itself (arXiv 1512.03385).

Transformers' ResNet halves a picture twice before its first stage, which leaves 7x7 of a 28x28 picture; here the stem
keeps every pixel and each stage halves the map.

The network itself is `networks.ResNet`.
"""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from cluster.recipe.base import Section


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
