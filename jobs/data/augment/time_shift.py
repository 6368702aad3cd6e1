"""A recording that starts a little earlier or later than the word."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from jobs.data.augment.params import Augmentation


class Params(Augmentation):
    """How far."""

    share: float = Field(0.1, gt=0, lt=1, description="largest shift, either way (share of the recording's length)")


def time_shift(samples: np.ndarray, params: Params, rng: np.random.Generator) -> np.ndarray:
    """int16 [N], the recording moved by a uniform number of samples with silence where nothing is left of it."""
    most = int(params.share * len(samples))
    shift = int(rng.integers(-most, most + 1))
    out = np.zeros_like(samples)
    if shift >= 0:
        out[shift:] = samples[: len(samples) - shift]
    else:
        out[:shift] = samples[-shift:]
    return out
