"""Intervals of single metrics: the values are the metrics' own, and the width is what theory gives."""

import numpy as np
import pytest

from jobs.measure import intervals, metrics


def test_values_are_the_metrics_and_the_width_of_a_share_is_the_binomials() -> None:
    rng = np.random.default_rng(1)
    truth = rng.choice(list("abcde"), 1200).tolist()
    answers = [one if rng.random() < 0.8 else "a" for one in truth]
    teacher = [one if rng.random() < 0.9 else "b" for one in truth]
    found = intervals.measure(truth, answers, teacher, "accuracy", 1000, 0)
    share = float(np.mean([a == b for a, b in zip(truth, answers, strict=True)]))
    assert found["accuracy"]["value"] == pytest.approx(share)
    assert found["macro_f1"]["value"] == pytest.approx(metrics.macro_f1(truth, answers))
    assert found["agreement"]["value"] == pytest.approx(metrics.agreement(answers, teacher))
    half = 1.96 * np.sqrt(share * (1 - share) / len(truth))
    assert found["accuracy"]["low"] == pytest.approx(share - half, abs=0.004)
    assert found["accuracy"]["high"] == pytest.approx(share + half, abs=0.004)
    low, high = found["macro_f1"]["low"], found["macro_f1"]["high"]
    assert low is not None and high is not None and low < metrics.macro_f1(truth, answers) < high


def test_no_draws_no_intervals() -> None:
    assert intervals.measure(["a"], ["a"], ["a"], "accuracy", 0, 0) == {}
