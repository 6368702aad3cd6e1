"""Later rounds ask for what is missing: scarce classes, new words, rows that the teacher was unsure of."""

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cluster import schema
from jobs.data.requests.rounds import cheap_reasons, next_requests

TABLE = schema.schema("samples")


def rows(made: list[dict[str, Any]]) -> pa.Table:
    plain = {
        "split": "train", "slice": "all", "view": 0, "draw": 0, "temperature": 0.0, "seed": 0, "status": "ok",
        "teacher": "t", "attempts": 1, "confidence": 0.9,
    }  # fmt: skip
    return pa.Table.from_pylist([plain | row for row in made], TABLE)


def row(number: int, name: str, prompt: str | None = None, seed_row: int | None = None, **more: Any) -> dict[str, Any]:
    own = number if seed_row is None else seed_row
    return {
        "sample_id": f"{number:016x}", "label_name": name, "response": name, "seed_row": own,
        "prompt": prompt or f"words of {number}",
    } | more  # fmt: skip


def test_the_first_round_is_a_choice_by_seed() -> None:
    pool = rows([row(number, "a") for number in range(50)])
    first = next_requests(pool, pool.slice(0, 0), [], 10, 1)
    assert first.equals(next_requests(pool, pool.slice(0, 0), [], 10, 1))
    assert not first.equals(next_requests(pool, pool.slice(0, 0), [], 10, 2))
    assert len(first) == 10


def test_a_class_that_curation_kept_little_of_is_asked_for_next() -> None:
    asked = rows([row(number, "common") for number in range(20)] + [row(30 + number, "rare") for number in range(2)])
    pool = rows([row(100 + number, ("common", "rare")[number % 2]) for number in range(40)])
    found = next_requests(pool, asked, [None] * len(asked), 10, 0)
    assert Counter(found["label_name"].to_pylist()) == {"rare": 10}


def test_new_words_are_asked_for_before_known_ones() -> None:
    asked = rows([row(0, "a", "the very same words")])
    pool = rows([row(10, "a", "the very same words"), row(11, "a", "nothing like it here")])
    assert next_requests(pool, asked, [None], 1, 0)["sample_id"].to_pylist() == [f"{11:016x}"]


def test_views_of_a_row_that_the_teacher_was_unsure_of_come_first() -> None:
    asked = rows([row(0, "a", confidence=0.99), row(1, "a", confidence=0.3), row(2, "a", confidence=0.95)])
    pool = rows([row(10 + number, "a", "one text", seed_row=number) for number in range(3)])
    assert next_requests(pool, asked, [None] * 3, 1, 0)["seed_row"].to_pylist() == [1]


@pytest.mark.parametrize("seed", range(5))
def test_no_request_is_asked_twice_and_the_pool_is_used_up(seed: int) -> None:
    names = np.random.default_rng(seed).choice(["a", "b", "c"], 37)
    pool = rows([row(number, str(name)) for number, name in enumerate(names)])
    asked, seen = pool.slice(0, 0), []
    for _ in range(5):
        found = next_requests(pool, asked, cheap_reasons(asked) if len(asked) else [], 10, seed)
        seen += found["sample_id"].to_pylist()
        asked = pa.concat_tables([asked, found])
    assert sorted(seen) == pool["sample_id"].to_pylist()


def test_cheap_reasons_name_what_curation_would_refuse() -> None:
    asked = rows([
        row(0, "a", "one"), row(1, "a", "ONE "), row(2, "a", "two", response="b"),
        row(3, "a", "three", status="rejected"),
        *(row(10 + number, "a") for number in range(6)), row(4, "a", "four", confidence=0.1),
    ])  # fmt: skip
    expected = [None, "duplicate", "wrong_answer", "no_answer", *[None] * 6, "low_confidence"]
    assert cheap_reasons(asked) == expected
