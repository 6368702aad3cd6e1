"""Noise of pictures on a whole clip, uint8 [K, H, W] or [K, H, W, C]: what sits on the lens stays where it is."""

from __future__ import annotations

import numpy as np

from jobs.data.augment.occlusion import Params, occlusion


def occluded(frames: np.ndarray, params: Params, rng: np.random.Generator) -> np.ndarray:
    """The same rectangle of one grey over every frame; uint8 of the same shape."""
    return np.moveaxis(occlusion(np.moveaxis(frames, 0, 2), params, rng), 2, 0)
