"""Scores of answers: what counts as right, what a class is worth, when confidence means something, what INT8 moved."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cluster import schema
from cluster.errors import DataError
from jobs.measure import exam, metrics


def requests(rows: list[dict[str, Any]]) -> pa.Table:
    base = {"split": "test", "slice": "all", "prompt": "what ?", "view": 0, "draw": 0, "temperature": 0.0, "seed": 0}
    filled = [base | {"sample_id": f"{index:016x}", "seed_row": index} | row for index, row in enumerate(rows)]
    return schema.conform(pa.Table.from_pylist(filled), "requests")


PICTURES = requests(
    [
        {"slice": "digit", "images": [b"a"], "label_name": "one"},
        {"slice": "digit", "images": [b"a"], "label_name": "two"},
        {"slice": "sum", "images": [b"a", b"b"], "label_name": "one two"},
    ]
)
TEXTS = requests([{"label_name": name} for name in ("a", "a", "b", "c")])


def test_an_answer_is_right_only_when_it_is_the_whole_truth() -> None:
    rows = exam.of(PICTURES, None, 0)
    assert metrics.right(rows, ["one", "two", "one"]).tolist() == [True, True, False]


def test_the_primary_metric_stands_first_and_pictures_are_told_apart() -> None:
    score = metrics.score(exam.of(PICTURES, None, 0), ["one", "one", "one two"], ["one", "two", "one two"], "visual_qa")
    assert list(score) == ["exact_match", "one_picture", "two_pictures", "agreement"]
    assert list(score.values()) == pytest.approx([2 / 3, 0.5, 1.0, 2 / 3])


def test_a_classifier_is_scored_by_accuracy_first_and_macro_f1_as_scikit_learn_has_it() -> None:
    from sklearn.metrics import f1_score

    given = ["a", "b", "b", "a"]
    score = metrics.score(exam.of(TEXTS, None, 0), given, given, "text_classification")
    assert list(score)[:2] == ["accuracy", "macro_f1"] and score["accuracy"] == 0.5
    expected = f1_score(["a", "a", "b", "c"], given, average="macro", labels=["a", "b", "c"], zero_division=0.0)
    assert score["macro_f1"] == pytest.approx(expected)


def test_slices_are_questions_for_pictures_and_classes_for_texts() -> None:
    assert metrics.by_slice(exam.of(PICTURES, None, 0), ["one", "two", "no"]) == {"digit": 1.0, "sum": 0.0}
    assert metrics.by_slice(exam.of(TEXTS, None, 0), ["a", "b", "b", "b"]) == {"a": 0.5, "b": 1.0, "c": 0.0}


def test_a_part_of_the_rows_is_the_same_part_every_time() -> None:
    rows = exam.of(TEXTS, 2, seed=3)
    assert len(rows) == 2 and rows.ids == exam.of(TEXTS, 2, seed=3).ids
    assert len({tuple(exam.of(TEXTS, 2, seed).ids) for seed in range(20)}) > 1


def test_a_test_split_without_labels_is_refused() -> None:
    with pytest.raises(DataError, match="no labelled row"):
        exam.of(requests([{}, {}]), None, 0)


def test_the_logit_error_is_relative_and_stops_where_answers_part() -> None:
    plain = np.array([[4.0, 0.0], [0.0, 3.0], [9.0, 9.0]], np.float32)
    assert metrics.logit_error([plain], [plain]) == 0.0
    assert metrics.logit_error([plain[:1]], [plain[:1] * 1.02]) == pytest.approx(0.02)
    parted = np.array([[4.0, 0.0], [4.0, 3.0], [0.0, 0.0]], np.float32)
    assert metrics.logit_error([plain], [parted]) == pytest.approx(4.0 / 5.0)
