"""Frames that a camera takes too early or too late, drops or repeats; their order stays."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from jobs.data.augment.params import Augmentation


class Params(Augmentation):
    """How unsteady."""

    share: float = Field(0.1, gt=0, lt=1, description="largest error of a frame's time, either way (share of the clip)")


def time_jitter(frames: np.ndarray, params: Params, rng: np.random.Generator) -> np.ndarray:
    """uint8 [K, ...], of each of the K times the frame nearest to it after a uniform error; sorted, so that time never
    runs back: a frame is shown again where its neighbour's is lost."""
    count = len(frames)
    times = np.arange(count) + rng.uniform(-1, 1, count) * params.share * count
    nearest = np.clip(np.rint(np.sort(times)), 0, count - 1).astype(int)
    shown: np.ndarray = frames[nearest]
    return shown
