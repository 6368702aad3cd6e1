"""Hidden states as int8 with one float32 step per position and layer: a quarter of float32, at most half a step off."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def pack(hidden: Array) -> dict[str, Array]:
    """`hidden` int8 and `hidden_scale` float32, flat, of states [P, H] of one layer or [P, L, H] of several."""
    scale = np.maximum(np.abs(hidden).max(-1), 1e-8) / 127
    steps = np.round(hidden / scale[..., None]).astype(np.int8)
    return {"hidden": steps.reshape(-1), "hidden_scale": scale.astype(np.float32).reshape(-1)}


def unpack(hidden: Array, hidden_scale: Array, positions: int) -> Array:
    """States float32 [P, L, H] of one row's two columns; L is 1 where one layer was kept."""
    scale_PL = hidden_scale.reshape(positions, -1)
    states: Array = hidden.reshape(*scale_PL.shape, -1).astype(np.float32) * scale_PL[..., None]
    return states
