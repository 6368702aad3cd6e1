"""Sounds as a student hears them: WAV bytes to samples to log-mel features, in numpy, the same at training and serving.

Shape legend: N samples, T frames of features, M mel bands, W samples of a window, F frequencies of a window (W/2 + 1).
"""

from __future__ import annotations

import functools
import io
import wave
from dataclasses import dataclass
from typing import Any

import numpy as np

from serving.bundle.answer import Array, BundleError

CHUNK = 100  # frames that Qwen3-Omni's audio tower takes at once; its convolutions make 13 tokens of them
FLOOR = 1e-10  # power below which a band counts as silent


@dataclass(frozen=True)
class Sound:
    """What one sound is made into: `frames` columns of `mels` bands, a column per `hop` samples at `rate` per second.

    A longer sound is cut, a shorter one has silence behind it. `frames` is at most CHUNK, or a multiple of it.
    """

    rate: int
    frames: int
    mels: int = 32
    hop: int = 128

    @property
    def chunk(self) -> int:
        """Frames that the tower's convolutions see at once."""
        return min(self.frames, CHUNK)

    @property
    def tokens(self) -> int:
        """Audio tokens per sound: three convolutions of stride 2 over every chunk."""
        return -(-self.chunk // 8) * (self.frames // self.chunk)


def wav(samples_N: Array, rate: int) -> bytes:
    """int16 samples as the bytes of a mono WAV file."""
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.asarray(samples_N, "<i2").tobytes())
    return stream.getvalue()


def read_wav(data: bytes) -> tuple[Array, int]:
    """Samples int16 [N] and their rate (per second) of a mono 16-bit WAV file. Raises BundleError for anything else."""
    try:
        with wave.open(io.BytesIO(data)) as file:
            shape, rate = (file.getnchannels(), 8 * file.getsampwidth()), file.getframerate()
            samples = file.readframes(file.getnframes()) if shape == (1, 16) else b""
    except (wave.Error, EOFError, ValueError, RuntimeError) as error:
        raise BundleError(f"audio: not a readable WAV file ({error})") from error
    if shape != (1, 16):
        raise BundleError(f"audio: got {shape[0]} channels of {shape[1]} bits, expected one channel of 16 bits")
    if len(samples) < 2:
        raise BundleError("audio: got no samples, expected a WAV file with sound")
    return np.frombuffer(samples[: len(samples) // 2 * 2], "<i2"), rate


def heard(data: bytes, sound: Sound) -> Array:
    """Features float32 [M, T] of a WAV file. Raises BundleError as `read_wav`, and for another sampling rate."""
    samples_N, rate = read_wav(data)
    if rate != sound.rate:
        raise BundleError(f"audio: got {rate} samples a second, expected {sound.rate}")
    return log_mel(samples_N, sound)


def log_mel(samples_N: Array, sound: Sound) -> Array:
    """Log-mel features float32 [M, T] of int16 samples, about -1..1: Whisper's (arXiv 2212.04356, section 2.2) with
    this sound's sizes. Windows of four hops, centred; what is 80 dB below the loudest counts as silent."""
    window = 4 * sound.hop
    length = sound.frames * sound.hop
    padded = np.zeros(length + window, np.float32)
    kept = samples_N[:length].astype(np.float32) / 32768
    padded[window // 2 : window // 2 + len(kept)] = kept
    starts_T1 = np.arange(sound.frames)[:, None] * sound.hop
    framed_TW = padded[starts_T1 + np.arange(window)] * np.hanning(window + 1)[:-1].astype(np.float32)
    power_TF = np.abs(np.fft.rfft(framed_TW)) ** 2
    bands_MT = mel_bands(sound.mels, window, sound.rate) @ power_TF.T
    log = np.log10(np.maximum(bands_MT, FLOOR))
    return np.asarray((np.maximum(log, log.max() - 8) + 4) / 4, np.float32)


@functools.lru_cache(maxsize=8)
def mel_bands(mels: int, window: int, rate: int) -> Any:
    """Triangular filters float64 [M, F], spaced evenly in mel = 2595 log10(1 + Hz / 700), each of unit area in Hz."""
    top = 2595 * np.log10(1 + rate / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, mels + 2) / 2595) - 1)
    low, centre, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    hertz_F = np.fft.rfftfreq(window, 1 / rate)
    rising, falling = (hertz_F - low) / (centre - low), (high - hertz_F) / (high - centre)
    return np.maximum(0, np.minimum(rising, falling)) * 2 / (high - low)
