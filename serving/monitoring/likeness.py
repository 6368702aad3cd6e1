"""How much an answer is like the teacher's, or like the true one: 0..1, by the kind of task.

A share of equal answers and a BLEU are not the same unit: a value of one is never held against one of the other, and
every metric that carries one of them says which (`measure`).
"""

from __future__ import annotations

from typing import Literal

from cluster.errors import InputError

Measure = Literal["same", "bleu"]
WRITTEN = "text_generation"  # the task whose answers are whole texts, with many right ones


def measure(task: str) -> Measure:
    """By what answers of this task are compared: `same` 1 or 0, or sentence `bleu`."""
    return "bleu" if task == WRITTEN else "same"


def check(task: str) -> None:
    """Raise InputError where answers of this task cannot be compared with what is installed here."""
    if measure(task) != "bleu":
        return
    try:
        import sacrebleu  # noqa: F401
    except ImportError:
        raise InputError(
            "written texts are judged by BLEU, and sacrebleu is not installed here", got=f"task {task}",
            expected="sacrebleu, which the extra `serve` brings",
            hint="pip install 'raydistill[serve]' (make does), or experiment.enabled=false: nothing is judged then",
        ) from None  # fmt: skip


def likeness(task: str, answer: str, reference: str) -> float:
    """1 where the answers are the same text (spaces at the ends aside), else 0; for written texts sentence BLEU / 100
    (Papineni et al. 2002, as sacrebleu counts it, effective order). Raises ImportError where `check` would object."""
    if answer.strip() == reference.strip():
        return 1.0
    if measure(task) == "same":
        return 0.0
    from sacrebleu import sentence_bleu

    return float(min(sentence_bleu(answer, [reference]).score / 100, 1.0))
