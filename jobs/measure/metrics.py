"""Scores of free answers against the truth: the whole answer is right or it is wrong.

Shape legend: R rows, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jobs.measure.exam import Exam

PRIMARY = {
    "visual_qa": "exact_match",
    "text_classification": "accuracy",
    "image_classification": "accuracy",
    "text_generation": "likelihood",
    "retrieval": "recall_at_1",
}


def right(exam: Exam, answers: Sequence[str]) -> np.ndarray:
    """Per row whether the answer is the truth, bool [R]."""
    return np.array([given == true for given, true in zip(answers, exam.truth, strict=True)])


def score(exam: Exam, answers: Sequence[str], teacher: Sequence[str], task: str) -> dict[str, float]:
    """Metrics of one model, the primary one first, all 0 to 1: its groups (or macro-F1 over classes) and how often it
    says what the teacher says."""
    right_R = right(exam, answers)
    metrics = {PRIMARY[task]: float(right_R.mean())}
    if PRIMARY[task] == "accuracy" or (task == "visual_qa" and len(set(exam.truth)) < len(exam)):
        metrics["macro_f1"] = macro_f1(exam.truth, answers)
    metrics |= {name: float(right_R[rows_R].mean()) for name, rows_R in exam.groups.items()}
    return metrics | {"agreement": agreement(answers, teacher)}


def macro_f1(truth: Sequence[str], answers: Sequence[str]) -> float:
    """Mean F1 over the classes that occur in `truth`, 0 to 1."""
    true, given = np.array(truth), np.array(answers)
    f1_C = [
        2 * ((true == name) & (given == name)).sum() / ((true == name).sum() + (given == name).sum())
        for name in np.unique(true)
    ]
    return float(np.mean(f1_C))


def agreement(one: Sequence[str], other: Sequence[str]) -> float:
    """Share of rows with the same answer, 0 to 1."""
    return float(np.mean([a == b for a, b in zip(one, other, strict=True)]))


def by_slice(exam: Exam, answers: Sequence[str]) -> dict[str, float]:
    """Share of right answers per slice, in order of first appearance."""
    right_R, slices_R = right(exam, answers), np.array(exam.slices)
    return {name: float(right_R[slices_R == name].mean()) for name in dict.fromkeys(exam.slices)}


def logit_error(float_rows: Sequence[np.ndarray], int8_rows: Sequence[np.ndarray]) -> float:
    """|int8 - float| over |float| (Frobenius norms over all compared positions, a share), logits [A, C] per row.

    Positions up to and with the first where the two choose differently: beyond it they answer different prefixes.
    """
    gap = size = 0.0
    for plain, quantized in zip(float_rows, int8_rows, strict=True):
        both = min(len(plain), len(quantized))
        same = plain[:both].argmax(-1) == quantized[:both].argmax(-1)
        until = both if same.all() else int(same.argmin()) + 1
        gap += float(((plain[:until] - quantized[:until]).astype(np.float64) ** 2).sum())
        size += float((plain[:until].astype(np.float64) ** 2).sum())
    return float(np.sqrt(gap / size)) if size else 0.0
