"""Drops training rows that stand in an evaluation split, whole, in part, or nearly: or a test measures memory.

Shape legend: G word n-grams.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from pydantic import Field

from cluster.recipe.base import Section
from jobs.data.filters import words
from jobs.data.filters.minhash import Index, Shape
from jobs.data.filters.rows import Rows, Verdicts


class Params(Section):
    """What counts as the same text."""

    ngram: int = Field(13, ge=2, description="words in a row that make a leak (count). Source: Brown et al. 2020, C")
    least_words: int = Field(5, ge=1, description="shorter evaluation texts leak as a whole only (words)")
    threshold: float | None = Field(0.8, gt=0, le=1, description="Jaccard similarity that makes a leak; null: off")
    shingle: int = Field(2, ge=1, description="words per n-gram of that similarity (count)")


def decontaminate(rows: Rows, params: Params) -> Verdicts:
    """ "contaminated" for rows that share `ngram` words in a row with an evaluation request, or hold a shorter one of
    at least `least_words` words, or are equal to one, or reach the Jaccard threshold with one, which is the twin; the
    score is that similarity, 1 for shared words. Questions over pictures leak only over the same pictures, whole.

    A text is judged as it stands, so a view can leak where its row does not, and the other way round.
    """
    held = [table.select(["sample_id", "prompt", *words.MEDIA]) for table in rows.evaluation.values()]
    count = rows.samples.num_rows
    if not held:
        return Verdicts([None] * count, np.zeros(count))
    evaluation = pa.concat_tables(held)
    ids = evaluation["sample_id"].to_pylist()
    twin, scores = _near(rows.samples, evaluation, params, rows.seed)
    leaked = Grams(evaluation, params).find(rows.samples)
    for row, place in enumerate(leaked):
        if place is not None:
            twin[row], scores[row] = place, 1.0
    twins = [None if place < 0 else ids[place] for place in twin.tolist()]
    return Verdicts([None if one is None else "contaminated" for one in twins], scores, twins)


class Grams:
    """The word runs of evaluation texts by their length, and whole texts with their pictures."""

    def __init__(self, evaluation: pa.Table, params: Params) -> None:
        self._vocabulary = words.Vocabulary()
        self._whole: dict[int, int] = {}
        self._runs: dict[int, dict[int, int]] = {}
        hashes, counts, pictures = self._read(evaluation)
        for row, key in enumerate((words.whole(hashes, counts) ^ pictures).tolist()):
            self._whole.setdefault(key, row)
        length_R = np.where(pictures == 0, np.minimum(counts, params.ngram), 0)
        for length in range(params.least_words, params.ngram + 1):
            own_R = length_R == length
            grams, runs = words.ngrams(hashes[np.repeat(own_R, counts)], counts[own_R], length)
            rows = np.repeat(np.flatnonzero(own_R), runs)
            if len(rows):  # written backwards, so that the first row stays
                self._runs[length] = dict(zip(grams[::-1].tolist(), rows[::-1].tolist(), strict=True))

    def _read(self, table: pa.Table) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        hashes, counts = words.hashes(table["prompt"].to_pylist(), self._vocabulary)
        return hashes, counts, words.picture_keys(table)

    def find(self, samples: pa.Table) -> list[int | None]:
        """Per sample the first evaluation row that leaked into it, None without one."""
        hashes, counts, pictures = self._read(samples)
        out = [self._whole.get(key) for key in (words.whole(hashes, counts) ^ pictures).tolist()]
        for length, known in self._runs.items():
            long_R = (counts >= length) & (pictures == 0)
            grams, runs = words.ngrams(hashes[np.repeat(long_R, counts)], counts[long_R], length)
            row_G = np.repeat(np.flatnonzero(long_R), runs)
            hit = np.isin(grams, np.fromiter(known, np.uint64, len(known)))
            for row, gram in zip(row_G[hit].tolist(), grams[hit].tolist(), strict=True):
                if out[row] is None:
                    out[row] = known[gram]
        return out


def _near(samples: pa.Table, evaluation: pa.Table, params: Params, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Per sample the evaluation row it is nearly equal to int64 (-1: none), and their Jaccard similarity."""
    if params.threshold is None:
        return np.full(samples.num_rows, -1, np.int64), np.zeros(samples.num_rows)
    index = Index(Shape(params.threshold, params.shingle, seed=seed))
    for table in (evaluation, samples):
        index.add(table["prompt"].to_pylist(), words.picture_keys(table))
    held = evaluation.num_rows
    twin, jaccard = index.repeats(references=held)
    return twin[held:], jaccard[held:]
