"""Candidate slices: every way of naming a part of the rows that a person would understand.

Shape legend: R rows, E embedding size.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from jobs.after.diff.sides import Asked, Said, attributes
from jobs.data.augment.where import tokens

PHRASES_MAX = 400  # words and pairs of words looked at; more would cost power in the correction for many tests
LENGTH_BINS = 4
CLUSTERS_MAX = 20
CLUSTER_ROWS = 25  # rows a cluster has on average, at least
CONFIDENCE = (0.0, 0.5, 0.75, 0.9, 0.99, 1.0)
TELLING = 3  # words that name a cluster


@dataclass(frozen=True)
class Facet:
    """A part of the rows (bool [R]) with the name it is called by, its kind, and `where` as `generate.augment` takes it
    (empty: a request does not show it before it is answered). `pair` is set where it is defined by both answers."""

    kind: str
    name: str
    rows_R: np.ndarray
    where: Mapping[str, Any] = field(default_factory=dict)
    pair: tuple[str, str] | None = None


def all_of(rows: Asked, one: Said, other: Said, embeddings_RE: np.ndarray | None) -> list[Facet]:
    """Every candidate that holds some rows and not all; label pairs hold only rows where the two differ."""
    if not len(rows):
        return []
    texts = [text or "" for text in rows.table["prompt"].to_pylist()]
    words = [tokens(text) for text in texts]
    found = [*pairs(one, other), *classes(rows, one), *_attributes(rows), *phrases(words), *lengths(words)]
    found += [*_media(rows), *confidences("first", one), *confidences("second", other)]
    if embeddings_RE is not None:
        found += clusters(embeddings_RE, words)
    return [facet for facet in found if facet.rows_R.any() and (facet.pair or not facet.rows_R.all())]


def pairs(one: Said, other: Said) -> Iterator[Facet]:
    """Where the first says a and the second says b."""
    first, second = np.array(one.texts, object), np.array(other.texts, object)
    for (a, b), _ in Counter((a, b) for a, b in zip(one.texts, other.texts, strict=True) if a != b).most_common():
        rows_R = (first == a) & (second == b)
        yield Facet("answers", f"{_shown(a)} becomes {_shown(b)}", rows_R, {"label_name": [a]}, (a, b))


def classes(rows: Asked, one: Said) -> Iterator[Facet]:
    """Rows of one true class; where few are known, rows that the first calls by one name."""
    known = [name for name in rows.truth if name is not None]
    column = rows.truth if len(known) * 2 > len(rows) else one.texts
    kind = "true class" if column is rows.truth else "answer"
    values = np.array(column, object)
    for name, count in Counter(name for name in column if name is not None).most_common():
        if count < len(column):
            yield Facet(kind, _shown(name), values == name, {"label_name": [name]})


def _attributes(rows: Asked) -> Iterator[Facet]:
    for column, values in attributes(rows).items():
        named = np.array(values, object)
        for value in dict.fromkeys(values):
            if value is not None:
                where = {"slice": [value]} if column == "slice" else {}
                yield Facet(column, str(value), named == value, where)


def phrases(words: Sequence[Sequence[str]]) -> Iterator[Facet]:
    """Rows with one word or two words in a row, the commonest of those in at most half of the rows."""
    held = [{*row, *(f"{a} {b}" for a, b in pairwise(row))} for row in words]
    counts = Counter(phrase for own in held for phrase in own)
    least = max(3, len(words) // 200)
    usual = [phrase for phrase, count in counts.most_common() if least <= count <= len(words) / 2][:PHRASES_MAX]
    for phrase in usual:
        rows_R = np.array([phrase in own for own in held], bool)
        yield Facet("text with", f'"{phrase}"', rows_R, {"phrases": [phrase]})


def lengths(words: Sequence[Sequence[str]]) -> Iterator[Facet]:
    """Quarters of the rows by their number of words."""
    count_R = np.array([len(row) for row in words], int)
    edges = np.unique(np.quantile(count_R, np.linspace(0, 1, LENGTH_BINS + 1)).round().astype(int))
    for low, high in pairwise(edges):
        top = int(high) if high == edges[-1] else int(high) - 1
        rows_R = (count_R >= low) & (count_R <= top)
        yield Facet("length", f"{low} to {top} words", rows_R, {"words_min": int(low), "words_max": top})


def _media(rows: Asked) -> Iterator[Facet]:
    if "images" in rows.table.column_names:
        count_R = np.array([len(own or ()) for own in rows.table["images"].to_pylist()])
        for count in np.unique(count_R):
            yield Facet("pictures", f"{count}", count_R == count)
    for name in ("audio", "frames"):
        if name in rows.table.column_names:
            held_R = np.array([bool(own) for own in rows.table[name].to_pylist()])
            yield Facet("medium", f"with {name}", held_R)


def confidences(which: str, said: Said) -> Iterator[Facet]:
    """Rows by how sure a model is."""
    for low, high in pairwise(CONFIDENCE):
        rows_R = (said.confidence_R >= low) & ((said.confidence_R < high) | (high == 1.0))
        yield Facet("confidence", f"{which} is {low:.0%} to {high:.0%} sure", rows_R)


def clusters(embeddings_RE: np.ndarray, words: Sequence[Sequence[str]]) -> Iterator[Facet]:
    """k-means clusters of the rows' embeddings, each named by the words that tell it from the rest."""
    from sklearn.cluster import KMeans

    count = min(CLUSTERS_MAX, len(words) // CLUSTER_ROWS)
    if count < 2:
        return
    place_R = KMeans(count, n_init=3, random_state=0).fit_predict(embeddings_RE)
    everywhere = Counter(word for row in words for word in set(row))
    for number in range(count):
        rows_R = place_R == number
        own = Counter(word for row, mine in zip(words, rows_R, strict=True) if mine for word in set(row))
        name = telling(own, int(rows_R.sum()), everywhere, len(words))
        shown = ", ".join(name) if name else f"cluster {number + 1}"
        yield Facet("alike", shown, rows_R, {"phrases": name} if name else {})


def telling(own: Mapping[str, int], rows: int, everywhere: Mapping[str, int], all_rows: int) -> list[str]:
    """Up to three words with the largest weight p log(p / q), p and q their shares of rows here and of all (smoothed);
    only words that are more common here."""
    weight = {}
    for word, count in own.items():
        p, q = (count + 0.5) / (rows + 1), (everywhere[word] + 0.5) / (all_rows + 1)
        if p > q and count > 1:
            weight[word] = p * np.log(p / q)
    return sorted(weight, key=lambda word: (-weight[word], word))[:TELLING]


def _shown(answer: str) -> str:
    return answer if answer else "(nothing)"
