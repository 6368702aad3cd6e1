"""Variants of texts: deterministic, made of the rows' own words, and never the row itself."""

from collections import Counter

import pytest

from cluster.errors import RecipeError
from jobs.data.variants import KINDS, Views, variants

TEXTS = ["why was my card payment declined today", "please cancel my last transfer at once", "hello", "two words"]


def test_every_row_gets_what_the_views_name_and_a_seed_repeats_it() -> None:
    views = Views(dropped=2, swapped=1, joined=1)
    made = variants(TEXTS, views, seed=3)
    assert made == variants(TEXTS, views, seed=3) != variants(TEXTS, views, seed=4)
    assert Counter((one.row, one.kind) for one in made)[(0, "dropped")] == 2
    assert {one.view for one in made if one.row == 0} == {1, 2, 3, 4}


@pytest.mark.parametrize("kind", KINDS)
def test_a_variant_is_never_its_own_row(kind: str) -> None:
    made = variants(TEXTS * 25, Views.parse({kind: 3}), seed=0)
    assert made
    assert all(one.text != (TEXTS * 25)[one.row] and one.text.strip() for one in made)


def test_words_are_dropped_or_swapped_within_the_row() -> None:
    for one in variants(TEXTS * 25, Views(dropped=1, swapped=1), seed=0):
        words, own = Counter(one.text.split()), Counter((TEXTS * 25)[one.row].split())
        assert words == own if one.kind == "swapped" else words < own


def test_a_joined_variant_starts_with_its_row_and_ends_with_another() -> None:
    ends = {" ".join(text.split()[len(text.split()) // 2 :]) for text in TEXTS}
    for one in variants(TEXTS, Views(joined=5), seed=0):
        words = TEXTS[one.row].split()
        half = -(-len(words) // 2)
        assert one.text.split()[:half] == words[:half]
        assert " ".join(one.text.split()[half:]) in ends


def test_no_views_make_no_variants_and_unknown_ones_are_refused() -> None:
    assert variants(TEXTS, Views(), seed=0) == []
    with pytest.raises(RecipeError, match=r"generate\.views\.droped"):
        Views.parse({"droped": 1}, at="generate.views")
