"""Texts that a model writes against those that people wrote: BLEU and exact match."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jobs.measure.exam import Exam


def exercise(rows: Exam, continues: bool, count: int) -> tuple[list[dict[str, Any]], list[str]]:
    """Requests and what should be written to them: the first `count` rows. A model that continues texts is given the
    first half of each one's words and should write the rest; texts of one word are left out."""
    if not continues:
        return [dict(item) for item in rows.items[:count]], list(rows.truth[:count])
    halves = [_halves(text) for text in rows.truth if len(text.split()) > 1][:count]
    return [{"text": first} for first, _ in halves], [rest for _, rest in halves]


def _halves(text: str) -> tuple[str, str]:
    """A text cut after half of its words; the space between belongs to the second half."""
    words, at = text.split(), 0
    for word in words[: len(words) // 2]:
        at = text.index(word, at) + len(word)
    return text[:at], text[at:]


def scores(written: Sequence[str], truth: Sequence[str], continues: bool) -> dict[str, float]:
    """`bleu` (corpus BLEU-4 by sacrebleu over 100, 0 to 1; Post 2018, arXiv 1804.08771) and `exact_match` (share of
    texts that are the truth, spaces at the ends left out).

    Where texts are continued, the truth is cut to as many words as were written: a model that stops after its few
    tokens is not wrong about those it was not asked for.
    """
    from sacrebleu.metrics.bleu import BLEU

    ends = [max(1, len(own.split())) if continues else None for own in written]
    expected = [" ".join(true.split()[:end]) for true, end in zip(truth, ends, strict=True)]
    plain = [" ".join(own.split()) for own in written]
    bleu = BLEU(effective_order=True).corpus_score(plain, [expected])
    exact = sum(own == true for own, true in zip(plain, expected, strict=True))
    return {"bleu": float(bleu.score) / 100, "exact_match": exact / len(truth)}
