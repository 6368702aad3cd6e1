"""Filters that compare rows: repeats, near repeats, same meaning, contradictions, and rows of the evaluation splits."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.data.filters import FILTERS, Filter, Rows, Verdicts, words
from jobs.data.filters.minhash import Index, Shape
from jobs.data.filters.semantic_duplicate import nearest_kept


def ask(name: str, rows: Rows, **params: Any) -> Verdicts:
    entry = FILTERS[name]
    assert isinstance(entry, Filter)
    return entry.function(rows, entry.params.parse(params))


def jaccard(left: str, right: str, size: int) -> float:
    a, b = (
        {tuple(own[place : place + size]) for place in range(max(1, len(own) - size + 1))}
        for own in (words.split(left), words.split(right))
    )
    return len(a & b) / len(a | b)


def test_a_near_repeat_names_the_row_it_repeats_and_how_alike_they_are(make_rows: Callable[..., Rows]) -> None:
    texts = ["how do i change my pin code", "something else entirely now", "How do I change my pin code, please?"]
    told = ask("near_duplicate", make_rows(texts))
    assert told.reasons == [None, None, "near_duplicate"]
    assert told.twins == [None, None, f"{0:016x}"]
    assert told.scores[2] == pytest.approx(jaccard(texts[0], texts[2], 2)) == pytest.approx(6 / 7)


def test_views_of_one_row_and_questions_over_other_pictures_may_be_alike(make_rows: Callable[..., Rows]) -> None:
    first = f"{0:016x}"
    views = make_rows(["the same words again"] * 2, parent=[None, first])
    assert ask("near_duplicate", views).reasons == [None, None]
    assert ask("near_duplicate", views, spare_views=False).reasons == [None, "near_duplicate"]
    pictures = make_rows(["which digit is it"] * 3, images=[[b"1"], [b"2"], [b"1"]])
    assert ask("near_duplicate", pictures).reasons == [None, None, "near_duplicate"]


def test_nothing_is_refused_for_being_like_a_refused_row() -> None:
    chain = ["a b c d e f g h", "b c d e f g h i", "c d e f g h i j"]  # each is like the next, the ends are not
    index = Index(Shape(threshold=0.7, ngram=1))
    index.add(chain)
    twin, alike = index.repeats()
    assert twin.tolist() == [-1, 0, -1]
    assert alike.tolist() == [0, pytest.approx(7 / 9), 0]


def test_texts_added_in_blocks_or_at_once_give_the_same() -> None:
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(list("abcdefghij"), 6)) for _ in range(300)]
    found = []
    for step in (300, 7):
        index = Index(Shape(0.6, 2, seed=3))
        for start in range(0, 300, step):
            index.add(texts[start : start + step])
        found.append(index.repeats())
    assert np.array_equal(found[0][0], found[1][0]) and np.array_equal(found[0][1], found[1][1])


@settings(max_examples=20, deadline=None)
@given(st.lists(st.text("abc ", min_size=1, max_size=14), min_size=2, max_size=30), st.sampled_from([0.5, 0.7, 0.9]))
def test_every_refused_row_is_as_alike_as_it_says_and_kept_rows_are_not_refused_twins(
    texts: list[str], threshold: float
) -> None:
    index = Index(Shape(threshold, 2))
    index.add(texts)
    twin, alike = index.repeats()
    for row, place in enumerate(twin.tolist()):
        if place >= 0:
            assert place < row and twin[place] < 0
            assert alike[row] >= threshold


def test_bands_find_a_pair_at_the_threshold_with_the_chance_asked_for() -> None:
    for threshold in (0.5, 0.7, 0.8, 0.9):
        bands, width = Shape(threshold).bands()
        assert 1 - (1 - threshold**width) ** bands >= 0.99
        assert bands * width <= 128
    rng, found = np.random.default_rng(5), 0
    for trial in range(200):
        own = [f"w{word}" for word in rng.integers(0, 10**6, 17)]
        other = [*own[:14], "x1", "x2", "x3"]  # 14 of 20 words: 0.7
        index = Index(Shape(0.7, 1, seed=trial))
        index.add([" ".join(own), " ".join(other)])
        found += int(index.repeats()[0][1] == 0)
    assert found >= 194  # 0.99 of 200, and three standard deviations of luck


def greedy(unit: np.ndarray, groups: np.ndarray, cut: float) -> list[int]:
    """The rows kept, one after the other: what the blocked form must give."""
    kept: list[int] = []
    for row in range(len(unit)):
        others = [other for other in kept if groups[other] != groups[row]]
        if not others or max(unit[others] @ unit[row]) <= cut:
            kept.append(row)
    return kept


def test_rows_that_mean_the_same_are_dropped_as_one_by_one_would() -> None:
    rng = np.random.default_rng(2)
    unit = rng.normal(size=(1300, 3)).astype(np.float32)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    groups = rng.integers(0, 900, 1300)
    twin, cosine = nearest_kept(unit, groups, 0.995)
    assert np.flatnonzero(twin < 0).tolist() == greedy(unit, groups, 0.995)
    refused = np.flatnonzero(twin >= 0)
    assert np.allclose((unit[refused] * unit[twin[refused]]).sum(1), cosine[refused], atol=1e-5)
    assert (cosine[refused] > 0.995).all() and (twin[twin[refused]] < 0).all()
    assert np.isnan(cosine[0])


def test_the_same_question_answered_differently_refuses_all_or_the_minority(make_rows: Callable[..., Rows]) -> None:
    rows = make_rows(
        ["is it on", "Is it  on", "is it on", "who is it", "who is it"], response=["yes", "no", "yes", "he", "he"]
    )
    assert ask("contradiction", rows).reasons == ["contradiction"] * 3 + [None] * 2
    few = ask("contradiction", rows, refuse="minority")
    assert few.reasons == [None, "contradiction", None, None, None]
    assert few.scores.tolist() == pytest.approx([2 / 3, 1 / 3, 2 / 3, 1, 1])
    tied = make_rows(["a b", "a b"], response=["yes", "no"])
    assert ask("contradiction", tied, refuse="minority").reasons == ["contradiction"] * 2


def test_nearly_the_same_question_counts_when_asked_for(make_rows: Callable[..., Rows]) -> None:
    rows = make_rows(
        ["how do i change my pin code", "how do i change my pin code now", "another thing"],
        response=["a", "b", None],
    )
    assert ask("contradiction", rows).reasons == [None] * 3
    assert ask("contradiction", rows, threshold=0.7).reasons == ["contradiction"] * 2 + [None]


LONG = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"


def test_rows_that_stand_in_an_evaluation_split_are_found_whole_in_part_or_nearly(
    make_rows: Callable[..., Rows],
) -> None:
    evaluation = {"test": [LONG, "lost card", "where can i get my money"], "validation": ["a plain request for you"]}
    texts = [
        "Lost card!",  # equal, short
        "i lost card today",  # holds a short one: no leak
        "so tell me where can i get my money please sir or madam of this bank",  # holds one of five words and more
        f"and then {LONG.rpartition(' ')[0]} hundred years of something new",  # thirteen words in a row
        "a plain request for",  # nearly
        " ".join(LONG.split()[:12]) + " and now something of my own that is new",  # twelve words in a row
        "nothing of it",
    ]
    told = ask("decontaminate", make_rows(texts, evaluation=evaluation), threshold=0.7)
    assert [reason is not None for reason in told.reasons] == [True, False, True, True, True, False, False]
    assert told.twins is not None and told.twins[0] == f"{1:016x}"
    assert told.scores[[0, 2, 3]].tolist() == [1, 1, 1] and 0.7 <= told.scores[4] < 1
    assert ask("decontaminate", make_rows(texts)).reasons == [None] * 7


def test_rows_are_not_compared_with_each_other_and_pictures_keep_questions_apart(
    make_rows: Callable[..., Rows],
) -> None:
    rows = make_rows(["same text here for all"] * 2, evaluation={"test": ["other"]})
    assert ask("decontaminate", rows).reasons == [None, None]
    asked = make_rows(["which digit is it now"], images=[[b"1"]]).samples
    rows = make_rows(["which digit is it now"] * 2, images=[[b"1"], [b"2"]])
    told = ask("decontaminate", Rows(rows.samples, rows.embeddings, None, {"test": asked}))
    assert told.reasons == ["contaminated", None]


def test_word_hashes_know_order_and_ends() -> None:
    texts = ["a b c", "a c b", "a b", "c", "???", "!!!", ""]
    hashes, counts = words.hashes(texts, words.Vocabulary())
    assert counts.tolist() == [3, 3, 2, 1, 1, 1, 1]
    assert len(set(words.whole(hashes, counts).tolist())) == 7
    grams, runs = words.ngrams(hashes, counts, 2)
    assert runs.tolist() == [2, 2, 1, 1, 1, 1, 1]
    assert grams[0] == grams[4] and len(set(grams.tolist())) == 8  # "a b" stands in the first and the third
    assert words.picture_keys(pa.table({"prompt": texts})).tolist() == [0] * 7
