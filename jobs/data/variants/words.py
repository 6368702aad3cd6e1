"""Variants made of the rows' own words: some left out, neighbours swapped, halves of two rows joined."""

from __future__ import annotations

import math

import numpy as np


def dropped(words: list[str], other: list[str], share: float, rng: np.random.Generator) -> list[str]:
    """The row with a `share` of its words left out, at least one."""
    kept = rng.random(len(words)) >= share
    if kept.all():
        kept[rng.integers(len(words))] = False
    return [word for word, keep in zip(words, kept, strict=True) if keep] or words


def swapped(words: list[str], other: list[str], share: float, rng: np.random.Generator) -> list[str]:
    """The row with a `share` of its words swapped with the next."""
    out = list(words)
    for _ in range(math.ceil(share * (len(words) - 1))):
        at = int(rng.integers(len(words) - 1))
        out[at], out[at + 1] = out[at + 1], out[at]
    return out


def joined(words: list[str], other: list[str], share: float, rng: np.random.Generator) -> list[str]:
    """The row's first half and another row's second half."""
    return [*words[: math.ceil(len(words) / 2)], *other[len(other) // 2 :]]
