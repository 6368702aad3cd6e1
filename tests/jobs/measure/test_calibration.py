"""Calibration: the curve's errors, and a temperature that repairs what was made too sure on purpose."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from jobs.measure import calibration


def overconfident(rows: int, factor: float) -> tuple[np.ndarray, np.ndarray]:
    """Logits [R, 5] that are `factor` times what the classes were drawn from, and the classes."""
    rng = np.random.default_rng(3)
    honest = rng.normal(0, 1.5, (rows, 5))
    p = np.exp(log_softmax(honest, -1))
    truth = np.array([rng.choice(5, p=row) for row in p])
    return honest * factor, truth


def test_honest_confidence_has_no_calibration_error() -> None:
    confidence = np.repeat([0.25, 0.75], 4)
    honest = np.array([1, 0, 0, 0, 1, 1, 1, 0], bool)
    assert calibration.curve(honest, confidence)["ece"] == pytest.approx(0.0)
    assert calibration.curve(~honest, confidence)["ece"] == pytest.approx(0.5)


def test_full_confidence_falls_into_the_last_bin_and_the_brier_score_is_its_squared_gap() -> None:
    told = calibration.curve(np.array([True, False]), np.array([1.0, 1.0]))
    assert told["bins"] == [{"low": 0.9, "high": 1.0, "rows": 2, "confidence": 1.0, "right": 0.5}]
    assert told["mce"] == told["ece"] == told["brier"] == 0.5


def test_the_temperature_is_the_one_that_scipy_finds_and_undoes_what_was_multiplied_in() -> None:
    logits, truth = overconfident(4000, 2.5)
    found = calibration.temperature_of_classes(logits, truth)

    def loss(temperature: float) -> float:
        return float(-log_softmax(logits / temperature, -1)[np.arange(len(truth)), truth].mean())

    best = minimize_scalar(loss, bounds=(0.125, 8.0), method="bounded").x
    assert found == pytest.approx(best, rel=0.01) and found == pytest.approx(2.5, rel=0.1)


def test_the_fitted_temperature_makes_other_rows_honest() -> None:
    logits, truth = overconfident(6000, 3.0)
    right = logits.argmax(-1) == truth
    rows = [row[None] for row in logits]
    temperature = calibration.temperature_of_answers(rows[:3000], right[:3000])
    before = calibration.curve(right[3000:], calibration.confidences(rows[3000:]))["ece"]
    after = calibration.curve(right[3000:], calibration.confidences(rows[3000:], temperature))["ece"]
    assert before > 0.15 and after < 0.03


def test_confidence_of_an_answer_is_the_geometric_mean_of_its_tokens() -> None:
    logits = np.log(np.array([[0.9, 0.1], [0.6, 0.4]]))
    assert calibration.confidences([logits])[0] == pytest.approx(np.sqrt(0.9 * 0.6))
