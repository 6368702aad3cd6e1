"""Variants of texts: deterministic, made of the rows' own words, and never the row itself."""

import ast
import runpy
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import RecipeError
from jobs.data.variants import Views, variants

TEXTS = ["why was my card payment declined today", "please cancel my last transfer at once", "hello", "two words"]


def test_every_row_gets_what_the_views_name_and_a_seed_repeats_it() -> None:
    views = Views(dropped=2, swapped=1, joined=1)
    made = variants(TEXTS, views, seed=3)
    assert made == variants(TEXTS, views, seed=3) != variants(TEXTS, views, seed=4)
    assert Counter((one.row, one.kind) for one in made)[(0, "dropped")] == 2
    assert {one.view for one in made if one.row == 0} == {1, 2, 3, 4}


@pytest.mark.parametrize("kind", ["dropped", "swapped", "joined"])
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


def test_a_counterfactual_swaps_one_pair_both_ways_and_keeps_the_rest() -> None:
    texts = ["The cat saw a dog; CATS and cats stay.", "nothing of that kind", "Cat"]
    made = variants(texts, Views(counterfactual=1, pairs={"cat": "dog"}), seed=0)
    assert [(one.row, one.text) for one in made] == [(0, "The dog saw a cat; CATS and cats stay."), (2, "Dog")]


def test_an_entity_is_replaced_everywhere_by_another_of_its_kind() -> None:
    views = Views(entity=4, entities={"city": ["Rome", "Oslo", "New York"], "name": ["Ann"]})
    made = variants(["from Rome to rome by car", "in NEW YORK"], views, seed=1)
    assert {one.text for one in made if one.row == 0} <= {
        "from Oslo to Oslo by car",
        "from New York to New York by car",
    }
    assert {one.text for one in made if one.row == 1} <= {"in ROME", "in OSLO"}
    assert len(made) == 8


def test_kinds_without_their_words_are_refused() -> None:
    with pytest.raises(RecipeError, match="pairs"):
        Views.parse({"counterfactual": 1}, at="generate.views")
    with pytest.raises(RecipeError, match="entities"):
        Views.parse({"entity": 1, "entities": {"city": ["Rome"]}}, at="generate.views")


SOURCE = """
scale = 3
offset = 4
def area(width, height, /, unit=scale):
    'Width times height.'
    result = width * height
    scale = 2
    extra = 5
    for step in range(scale):
        result += step * unit
    return result + extra
"""


def run(source: str, folder: Path) -> dict[str, Any]:
    (folder / "edited.py").write_text(source)
    return runpy.run_path(str(folder / "edited.py"))


@pytest.mark.parametrize("kind", ["code_renamed", "code_reordered"])
def test_an_edit_of_code_changes_its_text_and_not_what_it_does(kind: str, tmp_path: Path) -> None:
    made = variants([SOURCE], Views.parse({kind: 6}), seed=0)
    assert len({one.text for one in made}) > 1
    for one in made:
        before, after = (run(text, tmp_path) for text in (SOURCE, one.text))
        assert after["area"](3, 4, unit=7) == before["area"](3, 4, unit=7)
        assert after["area"](3, 4) == before["area"](3, 4)
        assert (after["scale"], after["offset"]) == (3, 4)
        shape = [type(node) for node in ast.walk(ast.parse(one.text))]
        assert shape == [type(node) for node in ast.walk(ast.parse(SOURCE))]


@pytest.mark.parametrize(
    "source", ["why was my card declined", "def f(x):\n    return x", "def f():\n  a = 1\n  return locals()"]
)
def test_code_that_cannot_be_edited_safely_gives_no_variant(source: str) -> None:
    assert variants([source], Views(code_renamed=1, code_reordered=1), seed=0) == []
