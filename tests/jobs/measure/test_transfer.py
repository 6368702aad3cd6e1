"""Knowledge that moved: CKA against its definition by kernels, and agreement where the teacher was sure."""

import numpy as np
import pytest

from jobs.measure import transfer


def by_kernels(x: np.ndarray, y: np.ndarray) -> float:
    """HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)) with K = XX', L = YY' (arXiv 1905.00414, equation 1)."""
    rows = len(x)
    centre = np.eye(rows) - 1 / rows
    k, m = centre @ x @ x.T @ centre, centre @ y @ y.T @ centre
    return float((k * m).sum() / np.sqrt((k * k).sum() * (m * m).sum()))


def test_cka_is_the_kernel_definition_and_blind_to_rotation_scale_and_shift() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 8)), rng.normal(size=(60, 5))
    assert transfer.cka(x, y) == pytest.approx(by_kernels(x, y))
    rotation = np.linalg.qr(rng.normal(size=(8, 8)))[0]
    assert transfer.cka(x, 3 * x @ rotation + 7) == pytest.approx(1.0)
    assert transfer.cka(x, y) < 0.3
    assert transfer.cka(x, np.ones((60, 4))) == 0.0


def test_agreement_is_told_per_bin_of_the_teachers_confidence() -> None:
    confidence, right = np.array([0.3, 0.97, 0.97, 1.0]), np.array([False, True, True, True])
    told = transfer.by_confidence(confidence, right, ["a", "b", "b", "c"], {"student": ["x", "b", "x", "c"]})
    assert [(one["low"], one["rows"], one["teacher_right"], one["student"]) for one in told] == [
        (0.0, 1, 0.0, 0.0),
        (0.95, 2, 1.0, 0.5),
        (0.99, 1, 1.0, 1.0),
    ]


def test_what_is_shared_counts_rights_and_the_same_mistakes() -> None:
    truth, teacher, student = list("abcd"), ["a", "b", "x", "y"], ["a", "z", "x", "d"]
    assert transfer.shared(truth, teacher, student) == {"of_teacher_right": 0.5, "of_teacher_wrong": 0.5}
    assert transfer.shared(truth, truth, student)["of_teacher_wrong"] is None
