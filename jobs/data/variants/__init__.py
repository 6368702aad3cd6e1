"""Label-free variants of texts for the teacher to label: they carry the student further than the labelled rows alone.

A row gives as many variants as the recipe's `generate.views` says; none of them has a true label. A new kind is one
function and one line in `KINDS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from pydantic import Field, model_validator

from cluster.recipe.base import Section
from jobs.data.variants import keywords, python_code, words


class Views(Section):
    """How many variants of each kind every row gets (`generate.views` of a text recipe)."""

    dropped: int = Field(0, ge=0, description="variants with words left out (count per row)")
    swapped: int = Field(0, ge=0, description="variants with neighbouring words swapped (count per row)")
    joined: int = Field(0, ge=0, description="variants of its first half and another row's second half (count per row)")
    word_share: float = Field(0.15, gt=0, lt=1, description="words left out, or swapped with the next (share)")
    counterfactual: int = Field(
        0, ge=0, description="variants with one of `pairs` swapped (count per row that has one)"
    )
    pairs: dict[str, str] = Field({}, description="word -> its counterpart, both ways (cat: dog)")
    entity: int = Field(0, ge=0, description="variants with one of `entities` replaced (count per row that has one)")
    entities: dict[str, list[str]] = Field(
        {}, description="kind -> names that stand for each other (city: [Rome, Oslo])"
    )
    code_renamed: int = Field(0, ge=0, description="Python with its functions' local names changed (count per row)")
    code_reordered: int = Field(0, ge=0, description="Python with two independent assignments swapped (count per row)")

    @model_validator(mode="after")
    def lists_are_given(self) -> Self:
        """A kind that replaces words needs the words."""
        if self.counterfactual and not self.pairs:
            raise ValueError("counterfactual needs pairs, for example {cat: dog}")
        if self.entity and not any(len(names) > 1 for names in self.entities.values()):
            raise ValueError("entity needs entities, at least two names of a kind")
        return self


@dataclass(frozen=True)
class Variant:
    """A text made from row `row` of the list it was drawn over; `view` counts from 1 within the row."""

    text: str
    row: int
    view: int
    kind: str


def variants(texts: Sequence[str], views: Views, seed: int) -> list[Variant]:
    """Every variant of every text, view by view, deterministic in (texts, views, seed).

    A variant equal to its own text (one-word texts have no other, most texts no listed word) is left out.
    """
    kinds = [kind for kind in KINDS for _ in range(getattr(views, kind))]
    out = []
    for view, kind in enumerate(kinds, 1):
        rng = np.random.default_rng([seed, view])
        partner = rng.permutation(len(texts))
        for row, text in enumerate(texts):
            made = KINDS[kind](text, texts[partner[row]], views, rng)
            if made.split() != text.split():
                out.append(Variant(made, row, view, kind))
    return out


Kind = Callable[[str, str, Views, np.random.Generator], str]


def _of_words(make: Callable[[list[str], list[str], float, np.random.Generator], list[str]]) -> Kind:
    return lambda text, other, views, rng: " ".join(make(text.split(), other.split(), views.word_share, rng))


# The order decides a variant's number, and so its id: a new kind goes to the end.
KINDS: Mapping[str, Kind] = {
    "dropped": _of_words(words.dropped),
    "swapped": _of_words(words.swapped),
    "joined": _of_words(words.joined),
    "counterfactual": lambda text, other, views, rng: keywords.counterfactual(text, views.pairs, rng),
    "entity": lambda text, other, views, rng: keywords.entity(text, views.entities, rng),
    "code_renamed": lambda text, other, views, rng: python_code.renamed(text, rng),
    "code_reordered": lambda text, other, views, rng: python_code.reordered(text, rng),
}
