"""Something in front of the lens: a rectangle of one grey over a random part of the picture.

Random erasing (Zhong et al. 2017, arXiv:1708.04896) with a fixed area, so that its strength is what the recipe says.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from jobs.data.augment.params import Augmentation


class Params(Augmentation):
    """How large, how long and how dark."""

    share: float = Field(0.1, gt=0, lt=1, description="area covered, up to rounding to whole pixels (share)")
    stretch: float = Field(2.0, ge=1, description="largest ratio of the rectangle's sides to each other (unitless)")
    grey: int = Field(0, ge=0, le=255, description="value that it is filled with (0 black to 255 white)")


def occlusion(pixels: np.ndarray, params: Params, rng: np.random.Generator) -> np.ndarray:
    """uint8 of the same shape with one rectangle of `grey`, its sides' ratio log-uniform in 1/stretch..stretch."""
    height, width = pixels.shape[:2]
    ratio = np.exp(rng.uniform(-1, 1) * np.log(params.stretch))
    tall = int(np.clip(np.rint(np.sqrt(params.share * height * width * ratio)), 1, height))
    wide = int(np.clip(np.rint(params.share * height * width / tall), 1, width))
    top, left = int(rng.integers(height - tall + 1)), int(rng.integers(width - wide + 1))
    out = pixels.copy()
    out[top : top + tall, left : left + wide] = params.grey
    return out
