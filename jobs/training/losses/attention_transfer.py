"""Where the teacher looks: normalised attention maps are compared (Zagoruyko and Komodakis, arXiv 1612.03928, eq. 2).

For convolutional features the channels are summed as squares; for transformers the heads are the channels.
Maps are of the stage's `layers`; a transformer's are those of a live teacher.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from cluster.recipe.base import Section

if TYPE_CHECKING:
    from jobs.training.losses import Signals


class Params(Section):
    """No parameters."""


def term(signals: Signals, params: Params) -> Tensor:
    """`attention_transfer` of one layer pair; scalar. Reads student_maps_BCHW and teacher_maps_BDHW (padding is 0)."""
    assert signals.student_maps_BCHW is not None
    assert signals.teacher_maps_BDHW is not None
    return attention_transfer(signals.student_maps_BCHW, signals.teacher_maps_BDHW)


def attention_transfer(student_BCHW: Tensor, teacher_BDHW: Tensor, mask_BHW: Tensor | None = None) -> Tensor:
    """mean over B of ||Q_s / ||Q_s|| - Q_t / ||Q_t|| ||^2, Q = sum over channels of A^2; scalar, 0 to 2.

    Maps [B, channels or heads, height, width], or [B, heads, queries, keys] of attention; channels may differ, and a
    larger map is pooled (mean) to the smaller one's size. `mask_BHW` bool, of the common size: what is False (padding)
    counts nowhere. Raises ValueError when a mask is given for maps of different sizes.
    """
    if student_BCHW.shape[2:] != teacher_BDHW.shape[2:] and mask_BHW is not None:
        raise ValueError(f"a mask needs maps of one size, got {student_BCHW.shape} and {teacher_BDHW.shape}")
    height, width = (min(student_BCHW.shape[axis], teacher_BDHW.shape[axis]) for axis in (2, 3))
    maps = [_unit_map(F.adaptive_avg_pool2d(x, (height, width)), mask_BHW) for x in (student_BCHW, teacher_BDHW)]
    return (maps[0] - maps[1]).pow(2).sum(-1).mean()


def _unit_map(x_BCHW: Tensor, mask_BHW: Tensor | None) -> Tensor:
    """Squares summed over channels as unit vectors [B, H * W]."""
    energy_BHW = x_BCHW.pow(2).sum(1)
    if mask_BHW is not None:
        energy_BHW = torch.where(mask_BHW, energy_BHW, torch.zeros_like(energy_BHW))
    return F.normalize(energy_BHW.flatten(1), dim=-1)
