"""A hissing microphone: white noise at a signal-to-noise ratio."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from jobs.data.augment.params import Augmentation

LIMITS = np.iinfo(np.int16)


class Params(Augmentation):
    """How loud."""

    snr_db: float = Field(20.0, ge=-20, le=80, description="signal power over noise power, 10 log10 of it (dB)")


def audio_noise(samples: np.ndarray, params: Params, rng: np.random.Generator) -> np.ndarray:
    """int16 [N], x + n with n ~ N(0, mean(x^2) / 10^(snr_db / 10)), rounded and clipped; silence stays silence."""
    signal = samples.astype(np.float64)
    power = float(np.mean(signal**2)) if len(signal) else 0.0
    noise = rng.standard_normal(len(signal)) * np.sqrt(power / 10 ** (params.snr_db / 10))
    noisy: np.ndarray = np.clip(np.rint(signal + noise), LIMITS.min, LIMITS.max).astype(np.int16)
    return noisy
