"""Finds where two models disagree: the candidates that stand out, the fewest names that cover most disagreements.

Every candidate is tested against the rest of the rows, and the whole family is corrected for (Benjamini and Hochberg):
of what is shown, about one in twenty is chance.
Shape legend: R rows.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jobs.after.diff import intervals
from jobs.after.diff.facets import Facet
from jobs.after.diff.sides import Asked, Said
from jobs.measure.shares import wilson

Q_MAX = 0.05  # of the slices shown, the share that may be chance
HITS_MIN = 3  # disagreements below which a slice is an anecdote
NEW_SHARE = 0.25  # of a further slice's disagreements that no slice before has named
SLICES_MAX = 12
SAMPLES = 5  # rows shown of each
TEXT_MAX = 300  # characters of a text shown
# Where two names stand out alike, the one that says more about the row itself.
SAYS_MORE = ("answers", "true class", "answer", "slice", "alike", "text with", "length", "confidence")


@dataclass(frozen=True)
class Slice:
    """A named part of the rows: R-sized mask, its disagreements, rate with 95 % interval, the rate outside it, p and q
    of standing out, and other names for nearly the same disagreements."""

    facet: Facet
    rows: int
    hits: int
    low: float
    high: float
    elsewhere: float
    p: float
    q: float
    also: tuple[str, ...] = ()

    @property
    def rate(self) -> float:
        """Share of its rows on which the two disagree; of a label pair, of the rows that the first calls so."""
        return self.hits / self.rows

    @property
    def title(self) -> str:
        """What people call it."""
        return f"{self.facet.kind}: {self.facet.name}"


def find(facets: Sequence[Facet], one: Said, other: Said) -> list[Slice]:
    """The slices that stand out, those that explain most disagreements first, each with names that mean the same."""
    differ_R = np.array([a != b for a, b in zip(one.texts, other.texts, strict=True)], bool)
    judged = [_judged(facet, differ_R, one, other) for facet in facets]
    q_S = intervals.false_discovery(np.array([slice_.p for slice_ in judged]))
    clear = [
        _with(slice_, q=float(q))
        for slice_, q in zip(judged, q_S, strict=True)
        if q <= Q_MAX and slice_.hits >= HITS_MIN and slice_.rate > slice_.elsewhere
    ]
    clear.sort(key=lambda slice_: (-_size(slice_), _place(slice_), slice_.q, slice_.title))
    return _covering(clear, differ_R)


def told(slice_: Slice, rows: Asked, one: Said, other: Said) -> dict[str, Any]:
    """A slice as JSON: name, sizes, rates, whose answers are right where the truth is known, and sample rows."""
    mask_R = slice_.facet.rows_R
    differ = [row for row in np.flatnonzero(mask_R).tolist() if one.texts[row] != other.texts[row]]
    differ.sort(key=lambda row: -other.confidence_R[row])
    texts = rows.table["prompt"].to_pylist()
    ids = rows.table["sample_id"].to_pylist()
    samples = [
        {"sample_id": ids[row], "text": (texts[row] or "")[:TEXT_MAX], "truth": rows.truth[row],
         "first": one.texts[row], "second": other.texts[row], "confidence": round(float(other.confidence_R[row]), 4)}
        for row in differ[:SAMPLES]
    ]  # fmt: skip
    return {
        "name": slice_.title, "kind": slice_.facet.kind, "rows": slice_.rows, "disagreements": slice_.hits,
        "rate": slice_.rate, "low": slice_.low, "high": slice_.high, "elsewhere": slice_.elsewhere, "p": slice_.p,
        "q": slice_.q, "also": list(slice_.also), "where": dict(slice_.facet.where),
        "pair": None if slice_.facet.pair is None else list(slice_.facet.pair),
        "right": right_of(rows.truth, one, other, mask_R), "samples": samples,
    }  # fmt: skip


def right_of(truth: Sequence[str | None], one: Said, other: Said, mask_R: np.ndarray) -> Mapping[str, Any] | None:
    """Rows of a mask with a known truth, and on how many the first and the second model are right; None without."""
    known = [row for row in np.flatnonzero(mask_R).tolist() if truth[row] is not None]
    if not known:
        return None
    right = {name: sum(said.texts[row] == truth[row] for row in known) for name, said in _named(one, other)}
    return {"rows": len(known), **right}


def _named(one: Said, other: Said) -> tuple[tuple[str, Said], tuple[str, Said]]:
    return ("first", one), ("second", other)


def _judged(facet: Facet, differ_R: np.ndarray, one: Said, other: Said) -> Slice:
    all_hits, all_rows = int(differ_R.sum()), len(differ_R)
    hits = int((facet.rows_R & differ_R).sum())
    if facet.pair is not None:
        return _judged_pair(facet, hits, all_hits, one, other)
    rows = int(facet.rows_R.sum())
    p = intervals.more_than_elsewhere(hits, rows, all_hits, all_rows)
    low, high = wilson(hits, rows)
    elsewhere = (all_hits - hits) / (all_rows - rows) if all_rows > rows else 0.0
    return Slice(facet, rows, hits, low, high, elsewhere, p, 1.0)


def _judged_pair(facet: Facet, hits: int, all_hits: int, one: Said, other: Said) -> Slice:
    """A pair is a disagreement by definition, so the question is another: do rows that the first calls a become b more
    often than by the overall rate, with the second's other answers as common as they are everywhere?"""
    assert facet.pair is not None
    (a, b), count = facet.pair, len(one.texts)
    rows = sum(text == a for text in one.texts)
    given = Counter(other.texts)
    rate = all_hits / count * given[b] / max(1, count - given[a])
    low, high = wilson(hits, rows)
    elsewhere = (all_hits - hits) / count
    return Slice(facet, rows, hits, low, high, min(elsewhere, rate), intervals.more_than_rate(hits, rows, rate), 1.0)


def _covering(clear: Sequence[Slice], differ_R: np.ndarray) -> list[Slice]:
    """Slices in order, each with at least `NEW_SHARE` of its disagreements unnamed so far; the others become further
    names of the first slice that they share most with."""
    chosen: list[Slice] = []
    also: list[list[str]] = []
    covered_R = np.zeros(len(differ_R), bool)
    for slice_ in clear:
        own_R = slice_.facet.rows_R & differ_R
        if chosen and (own_R & ~covered_R).sum() < max(1.0, NEW_SHARE * own_R.sum()):
            shared = [int((own_R & one.facet.rows_R).sum()) for one in chosen]
            also[int(np.argmax(shared))].append(slice_.title)
        elif len(chosen) < SLICES_MAX:
            chosen.append(slice_)
            also.append([])
            covered_R |= own_R
    return [_with(slice_, also=tuple(names[:6])) for slice_, names in zip(chosen, also, strict=True)]


def _size(slice_: Slice) -> int:
    """Disagreements beyond those that the rate elsewhere would give, in steps of a fifth: nearly as many is as many."""
    return round(math.log(max(0.1, slice_.hits - slice_.rows * slice_.elsewhere)) / math.log(1.2))


def _place(slice_: Slice) -> int:
    kind = slice_.facet.kind
    return SAYS_MORE.index(kind) if kind in SAYS_MORE else len(SAYS_MORE)


def _with(slice_: Slice, **values: Any) -> Slice:
    return Slice(**{**vars(slice_), **values})
