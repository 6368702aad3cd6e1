"""A hurried writer: some words left out, and neighbours that changed places."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from jobs.data.augment.params import Augmentation
from jobs.data.variants import words as edits


class Params(Augmentation):
    """How often."""

    share: float = Field(0.15, gt=0, lt=1, description="words left out, or swapped with the next (share)")


def words(text: str, params: Params, rng: np.random.Generator) -> str:
    """The text with a share of its words left out, or (as often) swapped; a single word stays as it is."""
    parts = text.split()
    if len(parts) < 2:
        return text
    edit = edits.dropped if rng.random() < 0.5 else edits.swapped
    return " ".join(edit(parts, [], params.share, rng))
