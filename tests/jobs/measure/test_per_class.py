"""Classes: what scikit-learn says of the same answers, and tables that stay readable."""

from typing import Any

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from jobs.measure import per_class


def measured(truth: list[str], answers: list[str]) -> dict[str, Any]:
    found = per_class.measure(truth, answers)
    assert found is not None
    return found


def test_every_class_has_the_scores_that_scikit_learn_gives_it() -> None:
    rng = np.random.default_rng(0)
    truth, answers = (rng.choice(["a", "b", "c", "d"], 200, p=[0.4, 0.3, 0.2, 0.1]).tolist() for _ in range(2))
    answers = ["a" if one == "d" else one for one in answers]
    found = measured(truth, answers)
    expected = precision_recall_fscore_support(truth, answers, labels=list("abcd"), zero_division=0.0)
    for name, values in zip(("precision", "recall", "f1", "support"), expected, strict=True):
        assert [one[name] for one in found["classes"]] == pytest.approx(values.tolist())
    assert found["confusion"]["labels"] == list("abcd")
    assert found["confusion"]["counts"] == confusion_matrix(truth, answers, labels=list("abcd")).tolist()


def test_answers_that_are_no_class_are_counted_together() -> None:
    found = measured(["a", "a", "b"], ["a", "nonsense", "b"])
    assert found["confusion"] == {"labels": ["a", "b", "(other)"], "counts": [[1, 0, 1], [0, 1, 0], [0, 0, 0]]}
    assert found["pairs"] == [{"truth": "a", "answer": "nonsense", "rows": 1}]


def test_many_classes_show_the_most_confused_and_lose_no_row() -> None:
    truth = [f"{number:03}" for number in range(100) for _ in range(2)]
    answers = [*truth]
    answers[150] = "076"
    table = measured(truth, answers)["confusion"]
    assert len(table["labels"]) == per_class.SHOWN + 1 and {"075", "076"} <= set(table["labels"])
    assert np.sum(table["counts"]) == 200


def test_texts_are_no_classes() -> None:
    assert per_class.measure(["one", "two"], ["one", "two"]) is None
