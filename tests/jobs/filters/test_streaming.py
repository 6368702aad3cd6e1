"""Filters in one streaming pass say what they say one after the other."""

from collections.abc import Callable

import numpy as np
import pytest

from cluster.recipe import ResourcesSection, Term
from jobs.data import streaming
from jobs.data.filters import Rows
from jobs.data.judging import judge

TEXTS = ("call me at +1 415 555 0132", "what is my balance today", "hi", "please send the form to the bank on monday")
LINE = [
    Term(name="schema_length", params={"min_chars": 5}),
    Term(name="pii"),
    Term(name="duplicate"),
    Term(name="decontaminate"),
    Term(name="confidence"),
    Term(name="confidence", params={"mode": "percentile", "minimum": 0.1}),
]


def samples(make_rows: Callable[..., Rows], count: int) -> Rows:
    texts = [f"{TEXTS[place % 4]} {place // 8}" if place % 4 != 2 else "hi" for place in range(count)]
    confidence = np.random.default_rng(0).uniform(0.7, 1.0, count).astype(np.float32)
    return make_rows(texts, confidence=confidence, evaluation={"test": texts[1:200:12]}, seed=3)


def test_one_streaming_pass_gives_the_verdicts_of_one_filter_after_the_other(
    make_rows: Callable[..., Rows], ray_cluster: ResourcesSection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "BLOCK_ROWS", 100)
    rows = samples(make_rows, 450)
    passes: list[list[str]] = []

    def passed(own: Rows, filters: list[Term]) -> object:
        passes.append([term.name for term in filters])
        return streaming.judge(own, filters)

    streamed, plain = judge(rows, LINE, passed), judge(rows, LINE)  # type: ignore[arg-type]
    assert passes == [["schema_length", "pii"], ["decontaminate", "confidence"]]
    assert (streamed.filters, streamed.reasons, streamed.twins) == (plain.filters, plain.reasons, plain.twins)
    np.testing.assert_array_equal(streamed.scores, plain.scores)
    assert {"schema_length", "pii", "duplicate", "decontaminate", "confidence", None} <= set(plain.filters)
