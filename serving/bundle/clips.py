"""Video as a student sees it: frames in pairs through the vision tower, each pair at its own time.

Shape legend: K frames, G groups of `temporal` frames, L patches of a frame, F features of a patch (C*patch*patch).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from serving.bundle.answer import Array


@dataclass(frozen=True)
class Clip:
    """What video may be: at most `frames` of it, `per_second` steps of the position in time to a second.

    Source of `per_second`: Qwen3-Omni's position_id_per_seconds, 25 there.
    """

    frames: int
    per_second: int = 25


def groups(count: int, temporal: int) -> int:
    """G, the groups that `count` frames make; a last one that is not full repeats its last frame."""
    return -(-count // temporal)


def stride(fps: float, temporal: int, clip: Clip) -> int:
    """Steps in time from one group to the next, at least 1."""
    return max(1, round(temporal / fps * clip.per_second))


def grouped(patches_KLF: Array, temporal: int) -> Array:
    """Frames as groups, uint8 [G, temporal, L, F]."""
    missing = -len(patches_KLF) % temporal
    full = np.concatenate([patches_KLF, np.repeat(patches_KLF[-1:], missing, 0)]) if missing else patches_KLF
    return full.reshape(-1, temporal, *patches_KLF.shape[1:])


def video_values(groups_GTLF: Array, channels: int) -> Array:
    """Groups of uint8 patches as the tower takes them: float32 in -1..1, [G, L, C*temporal*patch*patch]."""
    count, temporal, length, width = groups_GTLF.shape
    split = groups_GTLF.reshape(count, temporal, length, channels, width // channels).transpose(0, 2, 3, 1, 4)
    return np.asarray(split.reshape(count, length, width * temporal), np.float32) / np.float32(127.5) - np.float32(1)
