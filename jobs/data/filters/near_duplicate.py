"""Drops rows that say nearly the same as an earlier one: Jaccard similarity of word n-grams, found by MinHash.

Views of one row are like each other on purpose, so they are compared with other rows only; so are questions over
different pictures.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from cluster.recipe.base import Section
from jobs.data.filters import words
from jobs.data.filters.minhash import Index, Shape
from jobs.data.filters.rows import Rows, Verdicts


class Params(Section):
    """How alike is too alike."""

    threshold: float = Field(0.7, gt=0, le=1, description="Jaccard similarity from which a row repeats another")
    ngram: int = Field(2, ge=1, description="words per n-gram (count); more of them for long texts, 5 is usual")
    permutations: int = Field(128, ge=16, le=1024, description="hash functions (count)")
    recall: float = Field(0.99, gt=0, lt=1, description="least chance of finding a pair exactly at the threshold")
    spare_views: bool = Field(True, description="whether views of one row may be alike")


def near_duplicate(rows: Rows, params: Params) -> Verdicts:
    """ "near_duplicate" for every row that repeats an earlier kept one (in `sample_id` order), which is its twin; the
    score is their Jaccard similarity (0: nothing alike was found)."""
    index = Index(Shape(params.threshold, params.ngram, params.permutations, params.recall, rows.seed))
    index.add(rows.samples["prompt"].to_pylist(), words.picture_keys(rows.samples))
    groups = families(rows.origins()) if params.spare_views else None
    twin, jaccard = index.repeats(groups)
    ids = rows.samples["sample_id"].to_pylist()
    twins = [None if place < 0 else ids[place] for place in twin.tolist()]
    return Verdicts([None if one is None else "near_duplicate" for one in twins], jaccard, twins)


def families(origins: list[str]) -> np.ndarray:
    """int64 [R]: the same number for views of the same row."""
    number: dict[str, int] = {}
    return np.array([number.setdefault(one, len(number)) for one in origins], np.int64)
