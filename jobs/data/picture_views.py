"""Random views of pictures: moved, turned, zoomed, mirrored, or two of them laid over each other.

Shape legend: N pictures, H and W sides, C channels.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from pydantic import Field

from cluster.recipe.base import Section

CHUNK = 2048  # pictures held as floats at once


class Views(Section):
    """What may happen to a picture, all of it in every view (`generate.views`, `fit.views`)."""

    count: int = Field(0, ge=0, description="views of every picture, beside the picture itself (count)")
    shift: float = Field(0.08, ge=0, le=0.5, description="largest move, whole pixels (share of the side)")
    turn: float = Field(0.0, ge=0, le=45, description="largest turn, either way (degrees)")
    scale: float = Field(0.0, ge=0, lt=0.5, description="largest zoom in or out (share)")
    flip: bool = Field(False, description="mirror every second view left to right, by chance")
    mixed: float = Field(
        0.0, ge=0, le=1, description="views laid over another view, each with its own opacity (share). Source: arXiv "
        "2106.05237, function matching; only where a teacher labels them"
    )  # fmt: skip


def views(pixels_NHWC: np.ndarray, params: Views, seed: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """(number of the view from 1, pixels uint8 [N, H, W, C], whether mixed bool [N]) of `params.count` views of all."""
    for number in range(1, params.count + 1):
        rng = np.random.default_rng([seed, number])
        seen = moved(pixels_NHWC, params, rng)
        mixed_N = rng.random(len(seen)) < params.mixed
        places = np.flatnonzero(mixed_N)
        if len(places):
            other, share = rng.permutation(len(seen))[: len(places)], rng.uniform(0.2, 0.8, len(places))
            share = share[:, None, None, None].astype(np.float32)
            mixture = share * seen[places] + (1 - share) * seen[other]
            seen[places] = np.rint(mixture).astype(np.uint8)
        yield number, seen, mixed_N


def moved(pixels_NHWC: np.ndarray, params: Views, rng: np.random.Generator) -> np.ndarray:
    """One random view of each picture, uint8 of the same shape; beyond its edge a picture goes on as its edge is."""
    out = np.empty_like(pixels_NHWC)
    for start in range(0, len(out), CHUNK):
        out[start : start + CHUNK] = _moved(pixels_NHWC[start : start + CHUNK], params, rng)
    return out


def _moved(pixels_NHWC: np.ndarray, params: Views, rng: np.random.Generator) -> np.ndarray:
    count, height, width, _ = pixels_NHWC.shape
    angle_N = np.deg2rad(rng.uniform(-params.turn, params.turn, count))
    zoom_N = 1 + rng.uniform(-params.scale, params.scale, count)
    down_N, right_N = (np.rint(rng.uniform(-params.shift, params.shift, count) * side) for side in (height, width))
    mirror_N = np.where(rng.random(count) < 0.5, -1.0, 1.0) if params.flip else np.ones(count)
    cos, sin = ((one / zoom_N)[:, None, None] for one in (np.cos(angle_N), np.sin(angle_N)))
    ys, xs = np.mgrid[:height, :width].astype(np.float64)
    ys, xs = ys - (height - 1) / 2, xs - (width - 1) / 2
    y = cos * ys - sin * xs + (height - 1) / 2 + down_N[:, None, None]
    x = (sin * ys + cos * xs) * mirror_N[:, None, None] + (width - 1) / 2 + right_N[:, None, None]
    # Rounded where nothing but whole steps is left: 1e-12 beside a pixel would cost a second look.
    return _sampled(pixels_NHWC, np.round(y, 6).clip(0, height - 1), np.round(x, 6).clip(0, width - 1))


def _sampled(pixels_NHWC: np.ndarray, y_NHW: np.ndarray, x_NHW: np.ndarray) -> np.ndarray:
    """The pictures at fractional places within them, bilinear, uint8 [N, H, W, C]."""
    height, width = pixels_NHWC.shape[1:3]
    row = np.arange(len(pixels_NHWC))[:, None, None]
    top_NHW, left_NHW = y_NHW.astype(np.intp), x_NHW.astype(np.intp)
    down, right = ((own - whole).astype(np.float32)[..., None] for own, whole in ((y_NHW, top_NHW), (x_NHW, left_NHW)))
    if not down.any() and not right.any():
        return pixels_NHWC[row, top_NHW, left_NHW]
    below_NHW, beside_NHW = np.minimum(top_NHW + 1, height - 1), np.minimum(left_NHW + 1, width - 1)
    upper = pixels_NHWC[row, top_NHW, left_NHW] * (1 - right) + pixels_NHWC[row, top_NHW, beside_NHW] * right
    lower = pixels_NHWC[row, below_NHW, left_NHW] * (1 - right) + pixels_NHWC[row, below_NHW, beside_NHW] * right
    seen: np.ndarray = np.rint(upper * (1 - down) + lower * down).astype(np.uint8)
    return seen
