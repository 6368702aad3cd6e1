"""Exposure: one random factor on the whole picture."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from jobs.data.augment.params import Augmentation


class Params(Augmentation):
    """How strong."""

    change: float = Field(0.3, gt=0, lt=1, description="largest change of brightness, darker or brighter (share)")


def brightness(pixels: np.ndarray, params: Params, rng: np.random.Generator) -> np.ndarray:
    """uint8 of the same shape, f * x with f ~ U(1 - change, 1 + change), rounded and clipped to 0..255."""
    factor = 1 + rng.uniform(-params.change, params.change)
    return np.clip(np.rint(pixels * factor), 0, 255).astype(np.uint8)
