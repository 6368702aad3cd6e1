"""Filters that look at one row at a time: form, length, rules, classes, labels."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from jobs.data.filters import FILTERS, Filter, Rows, Verdicts
from jobs.data.filters.schema_length import charset_share
from jobs.data.filters.wrong_label import confident_errors, out_of_fold


def ask(name: str, rows: Rows, **params: Any) -> Verdicts:
    entry = FILTERS[name]
    assert isinstance(entry, Filter)
    return entry.function(rows, entry.params.parse(params))


def test_rows_too_short_too_long_foreign_or_unanswered_are_refused_with_what_was_measured(
    make_rows: Callable[..., Rows],
) -> None:
    rows = make_rows(
        ["fine words here", "no", "x" * 41, "слово дело мир", "good enough text"],
        response=["a", "a", "a", "a", " "],
    )
    told = ask("schema_length", rows, min_chars=3, max_chars=40, charset="latin")
    assert told.reasons == [None, "too_short", "too_long", "wrong_charset", "missing_response"]
    assert told.scores[:4].tolist() == [15, 2, 41, 0]
    assert ask("schema_length", rows, min_words=3).reasons[1:3] == ["too_short", "too_short"]
    assert charset_share("naïve 123!", "ascii") == pytest.approx(4 / 5)
    assert charset_share("123", "ascii") == 1.0


def test_a_rule_is_an_expression_or_a_name_and_a_row_it_cannot_be_asked_of_says_so(
    make_rows: Callable[..., Rows],
) -> None:
    rows = make_rows(["a b", "c", "d"], response=["a", "c", None])
    assert ask("consistency", rows, rule="response in prompt.split()").reasons == [None, None, "inconsistent"]
    assert ask("consistency", rows, rule="answer_is_not_the_prompt").reasons == [None, "inconsistent", "rule_failed"]
    assert ask("consistency", rows, rule="response|length > 0").reasons == [None, None, "rule_failed"]


def test_a_rule_cannot_leave_its_sandbox(make_rows: Callable[..., Rows]) -> None:
    escape = "prompt.__class__.__mro__[1].__subclasses__()"
    assert ask("consistency", make_rows(["a"]), rule=escape).reasons == ["rule_failed"]


def test_an_answer_caught_in_a_loop_is_found(make_rows: Callable[..., Rows]) -> None:
    loop = "it is so good " * 3
    rows = make_rows(["a", "b"], response=[f"well {loop}", "it is so good and it is so good"])
    assert ask("consistency", rows, rule="answer_has_no_repeat").reasons == ["inconsistent", None]


def test_a_class_above_the_cap_loses_its_least_sure_rows(make_rows: Callable[..., Rows]) -> None:
    answers = ["big"] * 6 + ["mid"] * 2 + ["small"] * 2
    sure = [0.9, 0.5, 0.8, 0.6, 0.95, 0.7, 0.9, 0.9, 0.9, 0.9]
    rows = make_rows(["x"] * 10, response=answers, confidence=sure)
    told = ask("class_balance", rows, ratio=1.5)
    kept = [place for place, reason in enumerate(told.reasons) if reason is None]
    assert kept == [0, 2, 4, 6, 7, 8, 9]  # 1.5 times the median of 2: the three surest of six
    assert told.scores[:6].tolist() == [2, 6, 3, 5, 1, 4]
    assert sum(reason is None for reason in ask("class_balance", rows, ratio=1.0, target=1).reasons) == 3


def test_confident_learning_finds_planted_flips_in_separated_classes() -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(4, 16))
    truth = rng.integers(0, 4, 800)
    x = centres[truth] + 0.6 * rng.normal(size=(800, 16))
    flipped = rng.permutation(800)[:40]
    given = truth.copy()
    given[flipped] = (truth[flipped] + rng.integers(1, 4, 40)) % 4
    found = set(np.flatnonzero(confident_errors(out_of_fold(x, given, 5, 0.1, 0), given)).tolist())
    right = len(found & set(flipped.tolist()))
    assert right / 40 >= 0.8  # thresholds are means, so some rows below them are not judged at all
    assert right / len(found) >= 0.9


def test_a_label_is_wrong_only_above_the_mean_confidence_of_the_other_class() -> None:
    label = np.array([0, 0, 1, 1])
    p = np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7], [0.1, 0.9]])
    # thresholds: mean of .9 and .2 for class 0, of .7 and .9 for class 1: .55 and .8
    assert confident_errors(p, label).tolist() == [False, True, False, False]


def test_rows_without_a_label_or_of_a_tiny_class_are_not_judged(make_rows: Callable[..., Rows]) -> None:
    names = ["a"] * 10 + ["b"] * 10 + ["rare"] * 2 + [None] * 2
    unit = np.random.default_rng(1).normal(size=(24, 4)).astype(np.float32)
    told = ask("wrong_label", make_rows(["x"] * 24, unit, label_name=names))
    assert np.isnan(told.scores).tolist() == [False] * 20 + [True] * 4
    assert told.reasons[20:] == [None] * 4


def test_the_teachers_own_probabilities_may_be_asked_when_it_has_not_seen_the_labels(
    make_rows: Callable[..., Rows],
) -> None:
    names = ["b", "a"] * 6
    p = np.tile(np.array([[0.1, 0.9], [0.8, 0.2]], np.float32), (6, 1))
    p[0] = [0.9, 0.1]
    rows = make_rows(["x"] * 12, label_name=names, label=[1, 0] * 6, probabilities=p)
    told = ask("wrong_label", rows, signal="teacher")
    assert told.reasons == ["wrong_label"] + [None] * 11
    assert told.scores[0] == pytest.approx(0.1)


def test_a_teacher_that_told_no_probability_is_not_taken_for_sure(make_rows: Callable[..., Rows]) -> None:
    rows = make_rows(["a", "b", "c"], confidence=[0.9, None, 0.2])
    assert ask("confidence", rows).reasons == [None, "no_confidence", "low_confidence"]
    cut = ask("confidence", rows, minimum=0.5, mode="percentile")
    assert cut.reasons == [None, "no_confidence", "low_confidence"]
