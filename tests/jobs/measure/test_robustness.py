"""Robustness: noise is what it says, drops are against the same rows, and swapped words are held to the teacher."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cluster import schema
from jobs.data import augment
from jobs.data.augment import AUGMENTATIONS
from jobs.measure import exam, robustness

WORDS = ["pay", "balance", "statement", "mortgage"]


@pytest.fixture
def requests() -> pa.Table:
    base: dict[str, Any] = {"split": "test", "slice": "all", "view": 0, "draw": 0, "temperature": 0.0, "seed": 0}
    rows = [
        base | {"sample_id": f"{number:016x}", "seed_row": number, "prompt": f"about my {WORDS[number % 4]} please",
                "label_name": WORDS[number % 4]}
        for number in range(60)
    ]  # fmt: skip
    return schema.conform(pa.Table.from_pylist(rows), "requests")


def spelled(items: Sequence[Mapping[str, Any]]) -> list[str]:
    """Knows a word only when every letter is right."""
    return [next((word for word in WORDS if word in item["text"].split()), "?") for item in items]


def lenient(items: Sequence[Mapping[str, Any]]) -> list[str]:
    """Knows a word by its length, whatever its letters."""
    lengths = {len(word): word for word in WORDS}
    return [lengths[len(item["text"].split()[2])] for item in items]


def test_every_kind_has_three_severities_that_its_own_file_accepts() -> None:
    for kind, (knob, values) in robustness.SEVERITIES.items():
        for value in values:
            assert AUGMENTATIONS[kind].params.parse({knob: value}).model_dump()[knob] == value


def test_typos_cost_the_one_that_reads_letters_and_more_of_them_cost_more(requests: pa.Table) -> None:
    sample = robustness.Sample(requests, {"student_int8": spelled, "teacher": lenient}, 200, 0)
    told = robustness.measure(sample)
    assert told["clean"] == {"student_int8": 1.0, "teacher": 1.0} and told["rows"] == 60
    assert [(one["kind"], one["severity"]) for one in told["kinds"]] == [("typos", 1), ("typos", 2), ("typos", 3)]
    drops = [one["drop"] for one in told["kinds"]]
    assert 0 < drops[0] < drops[2] and all(one["teacher"] == 1.0 for one in told["kinds"])
    for one in told["kinds"]:
        assert one["drop"] == pytest.approx(1.0 - one["student_int8"]) and one["low"] <= one["drop"] <= one["high"]


def test_a_sample_is_the_same_rows_every_time(requests: pa.Table) -> None:
    few = robustness.sampled(requests, 10, 0)
    assert len(few) == 10 and few.equals(robustness.sampled(requests, 10, 0))
    assert few["seed_row"].to_pylist() == sorted(few["seed_row"].to_pylist())


def test_a_student_that_did_not_learn_a_word_is_seen_when_it_is_swapped(requests: pa.Table) -> None:
    rows = exam.of(requests, None, 0)
    fixed = {item["text"]: true for item, true in zip(rows.items, rows.truth, strict=True)}

    def rote(items: Sequence[Mapping[str, Any]]) -> list[str]:
        return [fixed.get(item["text"].replace("loan", "mortgage"), "?") for item in items]

    pairs = {"mortgage": "balance"}
    told = robustness.swaps(rows, {"student_int8": spelled, "teacher": spelled}, pairs, 20)
    assert told is not None and told["rows"] == 20 and told["agreement"] == 1.0
    assert told["changed"] == {"student_int8": 1.0, "teacher": 1.0}
    stuck = robustness.swaps(rows, {"student_int8": lambda items: ["?"] * len(items), "teacher": rote}, pairs, 20)
    assert stuck is not None and stuck["agreement"] == 0.0 and stuck["changed"]["student_int8"] == 0.0
    assert robustness.swaps(rows, {"student_int8": spelled, "teacher": spelled}, {"river": "sea"}, 20) is None


def test_clips_are_tried_with_every_noise_of_clips_and_keep_their_truth() -> None:
    base: dict[str, Any] = {"split": "test", "slice": "all", "view": 0, "draw": 0, "temperature": 0.0, "seed": 0,
                            "prompt": "which way?", "fps": 2.0}  # fmt: skip
    rows = []
    for number in range(8):
        bright = [30 + 20 * (place if number % 2 else 5 - place) for place in range(6)]
        frames = [augment.encoded(np.full((6, 6), grey, np.uint8)) for grey in bright]
        rows.append(base | {"sample_id": f"{number:016x}", "seed_row": number, "frames": frames,
                            "label_name": "up" if number % 2 else "down"})  # fmt: skip

    def watcher(items: Sequence[Mapping[str, Any]]) -> list[str]:
        ends = [[augment.decoded(item["frames"][place]).mean() for place in (0, -1)] for item in items]
        return ["up" if last > first else "down" for first, last in ends]

    table = schema.conform(pa.Table.from_pylist(rows), "requests")
    told = robustness.measure(robustness.Sample(table, {"student_int8": watcher}, 50, 0))
    assert told["clean"] == {"student_int8": 1.0}
    kinds = {one["kind"] for one in told["kinds"] if one["medium"] == "clip"}
    assert kinds == {"clip_noise", "clip_brightness", "clip_occlusion", "time_jitter"}
    assert all(one["student_int8"] == 1.0 for one in told["kinds"] if one["kind"] == "clip_brightness")
