"""Label-free variants of texts for the teacher to label: they carry the student further than the labelled rows alone.

A row gives as many variants as the recipe's `generate.views` says; none of them has a true label.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import Field

from cluster.recipe.base import Section


class Views(Section):
    """How many variants of each kind every row gets (`generate.views` of a text recipe)."""

    dropped: int = Field(0, ge=0, description="variants with words left out (count per row)")
    swapped: int = Field(0, ge=0, description="variants with neighbouring words swapped (count per row)")
    joined: int = Field(0, ge=0, description="variants of its first half and another row's second half (count per row)")
    word_share: float = Field(0.15, gt=0, lt=1, description="words left out, or swapped with the next (share)")


@dataclass(frozen=True)
class Variant:
    """A text made from row `row` of the list it was drawn over; `view` counts from 1 within the row."""

    text: str
    row: int
    view: int
    kind: str


def variants(texts: Sequence[str], views: Views, seed: int) -> list[Variant]:
    """Every variant of every text, view by view, deterministic in (texts, views, seed).

    A variant equal to its own text (one-word texts have no other) is left out.
    """
    kinds = [kind for kind in KINDS for _ in range(getattr(views, kind))]
    out = []
    for view, kind in enumerate(kinds, 1):
        rng = np.random.default_rng([seed, view])
        partner = rng.permutation(len(texts))
        for row, text in enumerate(texts):
            words = text.split()
            made = " ".join(KINDS[kind](words, texts[partner[row]].split(), views.word_share, rng))
            if made != " ".join(words):
                out.append(Variant(made, row, view, kind))
    return out


def _dropped(words: list[str], other: list[str], share: float, rng: np.random.Generator) -> list[str]:
    kept = rng.random(len(words)) >= share
    if kept.all():
        kept[rng.integers(len(words))] = False
    return [word for word, keep in zip(words, kept, strict=True) if keep] or words


def _swapped(words: list[str], other: list[str], share: float, rng: np.random.Generator) -> list[str]:
    out = list(words)
    for _ in range(math.ceil(share * (len(words) - 1))):
        at = int(rng.integers(len(words) - 1))
        out[at], out[at + 1] = out[at + 1], out[at]
    return out


def _joined(words: list[str], other: list[str], share: float, rng: np.random.Generator) -> list[str]:
    return [*words[: math.ceil(len(words) / 2)], *other[len(other) // 2 :]]


KINDS: dict[str, Callable[[list[str], list[str], float, np.random.Generator], list[str]]] = {
    "dropped": _dropped,
    "swapped": _swapped,
    "joined": _joined,
}
