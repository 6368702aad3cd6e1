"""Sensor noise: independent Gaussian noise on every pixel and channel."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from jobs.data.augment.params import Augmentation

FULL_RANGE = 255.0  # of uint8


class Params(Augmentation):
    """How strong."""

    sigma: float = Field(0.05, gt=0, le=1, description="standard deviation (share of the full range 0 to 255)")


def gaussian_noise(pixels: np.ndarray, params: Params, rng: np.random.Generator) -> np.ndarray:
    """uint8 of the same shape, x + sigma * 255 * n with n ~ N(0, 1), rounded and clipped to 0..255.

    Clipping makes the realised deviation smaller than sigma near black and white.
    """
    noise = rng.standard_normal(pixels.shape) * (params.sigma * FULL_RANGE)
    return np.clip(np.rint(pixels + noise), 0, FULL_RANGE).astype(np.uint8)
