"""Slices that are planted are named, those that chance makes are not, and every number is that of the reference."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import scipy.stats

from cluster import schema
from cluster.store import Store
from jobs.after.diff import facets, intervals, repair, sides, slices
from jobs.after.diff.sides import Asked, Said
from jobs.measure import shares

WORDS = ["please", "my", "the", "can", "you", "help", "with", "about", "now", "account", "money", "app", "phone"]
CLASSES = ("card", "loan", "rate", "bill")


def rows_of(count: int, seed: int = 0, word: str = "") -> Asked:
    """Texts of a class word and salad; every fifth also holds `word`."""
    rng, made = np.random.default_rng(seed), []
    for row in range(count):
        label = CLASSES[row % 4]
        text = [label, *rng.choice(WORDS, int(rng.integers(3, 12))), *([word] if word and row % 5 == 0 else [])]
        made.append(
            {"sample_id": f"{row:016x}", "split": "validation", "slice": "all", "prompt": " ".join(text),
             "label_name": label, "seed_row": row, "view": 0, "draw": 0, "temperature": 0.0, "seed": 0}
        )  # fmt: skip
    table = schema.conform(pa.Table.from_pylist(made, schema.schema("requests")), "requests")
    return Asked(table, table["label_name"].to_pylist())


def true(rows: Asked) -> list[str]:
    return [str(name) for name in rows.truth]


def said(texts: Sequence[str], confidence: float = 0.995) -> Said:
    return Said(list(texts), np.full(len(texts), confidence))


def wrong(rows: Asked, where: np.ndarray, seed: int = 1) -> Said:
    """The truth, and on the rows of a mask another class."""
    rng = np.random.default_rng(seed)
    others = [[name for name in CLASSES if name != truth] for truth in true(rows)]
    return said([str(rng.choice(other)) if hit else truth
                 for truth, other, hit in zip(true(rows), others, where, strict=True)])  # fmt: skip


def found(rows: Asked, one: Said, other: Said) -> list[slices.Slice]:
    return slices.find(facets.all_of(rows, one, other, None), one, other)


def test_a_class_that_turned_into_another_is_named_first() -> None:
    rows = rows_of(200)
    other = said(["loan" if truth == "card" else truth for truth in true(rows)])
    first, *rest = found(rows, said(true(rows)), other)
    assert first.title == "answers: card becomes loan" and not rest
    assert "true class: card" in first.also
    assert (first.rows, first.hits, first.rate) == (50, 50, 1.0)
    assert first.low > 0.9 and first.q < 1e-20


def test_a_word_that_confuses_one_model_is_named() -> None:
    rows = rows_of(400, word="abroad")
    holds = np.array(["abroad" in text for text in rows.table["prompt"].to_pylist()])
    first = found(rows, said(true(rows)), wrong(rows, holds & (np.arange(400) % 2 == 0)))[0]
    assert first.title == 'text with: "abroad"'
    assert first.facet.where == {"phrases": ["abroad"]}
    assert first.low < first.rate < first.high


def test_long_texts_are_named() -> None:
    rows = rows_of(400)
    length = np.array([len(text.split()) for text in rows.table["prompt"].to_pylist()])
    hits = (length >= 10) & (np.random.default_rng(2).random(400) < 0.7)
    first = found(rows, said(true(rows)), wrong(rows, hits))[0]
    assert first.facet.kind == "length" and first.facet.where["words_max"] == length.max()


def test_disagreement_by_chance_is_hardly_ever_named() -> None:
    named = 0
    for seed in range(20):
        rows = rows_of(300, seed)
        hits = np.random.default_rng(seed).random(300) < 0.1
        named += bool(found(rows, said(true(rows)), wrong(rows, hits, seed)))
    assert named <= 3  # one in twenty is expected; three or fewer in 98 of 100 such series


def test_models_that_agree_have_no_slices_and_no_rows_are_no_error() -> None:
    rows = rows_of(40)
    assert found(rows, said(true(rows)), said(true(rows))) == []
    assert facets.all_of(Asked(rows.table.slice(0, 0), []), said([]), said([]), None) == []


def test_two_failures_get_two_names() -> None:
    rows = rows_of(800, word="abroad")
    holds = np.array(["abroad" in text for text in rows.table["prompt"].to_pylist()])
    turned = ["bill" if truth == "rate" else truth for truth in true(rows)]
    other = wrong(rows, holds).texts
    both = said([a if a != truth else b for a, b, truth in zip(turned, other, true(rows), strict=True)])
    titles = [slice_.title for slice_ in found(rows, said(true(rows)), both)][:2]
    assert sorted(titles) == ["answers: rate becomes bill", 'text with: "abroad"']


def test_rows_that_are_alike_are_named_by_their_telling_words() -> None:
    rows = rows_of(200)
    texts = [text.split() for text in rows.table["prompt"].to_pylist()]
    vectors = np.array([[truth == name for name in CLASSES] for truth in true(rows)], float)
    vectors += np.random.default_rng(0).normal(0, 0.02, vectors.shape)
    names = [facet.name.split(", ")[0] for facet in facets.clusters(vectors, texts)]
    assert set(names) >= set(CLASSES)


def test_a_slice_is_told_with_its_surest_disagreements_and_who_is_right() -> None:
    rows = rows_of(200)
    other = said(["loan" if truth == "card" else truth for truth in true(rows)])
    slice_ = found(rows, said(true(rows)), other)[0]
    told = slices.told(slice_, rows, said(true(rows)), other)
    assert told["right"] == {"rows": 50, "first": 50, "second": 0}
    assert len(told["samples"]) == slices.SAMPLES
    assert {(row["first"], row["second"]) for row in told["samples"]} == {("card", "loan")}


def test_the_repair_asks_for_more_rows_of_the_slice_behind_what_the_recipe_has(recipe_values: dict[str, Any]) -> None:
    from cluster.recipe import Recipe
    from jobs.data import augment

    recipe_values["generate"] = {"samples": 100, "augment": [{"name": "typos", "params": {"views": 1}}]}
    recipe, rows = Recipe.parse(recipe_values), rows_of(200)
    one, other = said(true(rows)), said(["loan" if truth == "card" else truth for truth in true(rows)])
    section = repair.section(recipe, found(rows, one, other)[0], rows, one, other)
    assert section is not None
    whole = Recipe.parse(recipe_values | {"generate": recipe_values["generate"] | section["generate"]})
    assert [term.name for term in whole.generate.augment] == ["typos", "words"]
    augment.check(whole.generate.augment, ["text"])
    views = augment.augmented(rows.table, whole.generate.augment[1:], 0)
    assert len(views) > 0 and {row["prompt"].split()[0] for row in views.to_pylist()} - set(WORDS) == {"card"}
    assert whole.generate.samples == 200  # a quarter of the rows four times
    assert "label_name:\n" in repair.written(section)


def test_a_slice_that_no_request_shows_is_repaired_by_its_answers(recipe_values: dict[str, Any]) -> None:
    from cluster.recipe import Recipe

    rows = rows_of(200)
    unsure = np.where(np.arange(200) < 40, 0.6, 0.999)
    other = Said(wrong(rows, np.arange(200) < 40).texts, unsure)
    slice_ = found(rows, said(true(rows)), other)[0]
    assert slice_.title == "confidence: second is 50% to 75% sure"
    section = repair.section(Recipe.parse(recipe_values), slice_, rows, said(true(rows)), other)
    assert section is not None
    assert sorted(section["generate"]["augment"][0]["params"]["where"]["label_name"]) == sorted(CLASSES)


@pytest.mark.parametrize(("hits", "rows"), [(0, 9), (3, 10), (50, 50), (17, 400)])
def test_the_interval_is_wilsons(hits: int, rows: int) -> None:
    wanted = scipy.stats.binomtest(hits, rows).proportion_ci(method="wilson")
    assert shares.wilson(hits, rows) == pytest.approx((wanted.low, wanted.high), abs=1e-9)


def test_standing_out_is_fishers_exact_test_and_the_correction_benjamini_and_hochbergs() -> None:
    table = [[7, 13], [20, 360]]
    wanted = scipy.stats.fisher_exact(table, alternative="greater").pvalue
    assert intervals.more_than_elsewhere(7, 20, 27, 400) == pytest.approx(wanted)
    p = np.random.default_rng(0).random(50) ** 2
    np.testing.assert_allclose(intervals.false_discovery(p), scipy.stats.false_discovery_control(p))


def test_what_cannot_be_asked_is_refused_with_what_can(store: Store, recipe_values: dict[str, Any]) -> None:
    from cluster.errors import InputError
    from cluster.recipe import Recipe

    recipe = Recipe.parse(recipe_values)
    with pytest.raises(InputError, match="--split names no split"):
        sides.rows_of(recipe, "tests", None, 0)
    with pytest.raises(InputError, match="no such model or run"):
        sides.side(store, "nobody@champion")
