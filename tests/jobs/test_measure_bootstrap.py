"""Intervals: paired, seeded, and wide where rows are few."""

import numpy as np
import pytest

from jobs.measure import bootstrap

TEACHER = np.random.default_rng(0).random(1500) < 0.95


def test_a_model_compared_with_itself_has_no_spread() -> None:
    assert bootstrap.ratio(TEACHER, TEACHER, 200, 0) == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert bootstrap.difference(TEACHER, TEACHER, 200, 0) == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_the_interval_holds_the_value_and_pairing_makes_it_narrow() -> None:
    student = TEACHER.copy()
    student[np.flatnonzero(TEACHER)[:30]] = False
    paired = bootstrap.ratio(student, TEACHER, 500, 0)
    shuffled = bootstrap.ratio(np.random.default_rng(1).permutation(student), TEACHER, 500, 0)
    assert paired["low"] < paired["value"] < paired["high"]  # type: ignore[operator]
    assert paired["high"] - paired["low"] < shuffled["high"] - shuffled["low"]  # type: ignore[operator]


def test_the_interval_is_the_one_that_theory_gives() -> None:
    found = bootstrap.difference(TEACHER, np.zeros(1500, bool), 4000, 0)
    share = TEACHER.mean()
    half = 1.96 * np.sqrt(share * (1 - share) / 1500)
    assert found["low"] == pytest.approx(share - half, abs=0.002) and found["high"] == pytest.approx(
        share + half, abs=0.002
    )


def test_the_same_seed_gives_the_same_interval() -> None:
    student = TEACHER & (np.random.default_rng(2).random(1500) < 0.97)
    assert bootstrap.ratio(student, TEACHER, 100, 5) == bootstrap.ratio(student, TEACHER, 100, 5)


def test_a_teacher_that_is_never_right_has_no_ratio_and_no_draws_no_bounds() -> None:
    assert bootstrap.ratio(TEACHER, np.zeros(1500, bool), 100, 0) == {"value": None, "low": None, "high": None}
    assert bootstrap.ratio(TEACHER, TEACHER, 0, 0) == {"value": 1.0, "low": None, "high": None}
