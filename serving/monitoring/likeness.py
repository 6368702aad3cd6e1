"""How much an answer is like the teacher's, or like the true one: 0..1, by the kind of task."""

from __future__ import annotations


def likeness(task: str, answer: str, reference: str) -> float:
    """1 where the answers are the same text (spaces at the ends aside), else 0; for generated text sentence BLEU / 100.

    BLEU (Papineni et al. 2002, as sacrebleu counts it, effective order) needs the extra `eval`; where sacrebleu is not
    installed generated texts are compared as texts, too.
    """
    if answer.strip() == reference.strip():
        return 1.0
    if task != "text_generation":
        return 0.0
    try:
        from sacrebleu import sentence_bleu
    except ImportError:
        return 0.0
    return float(min(sentence_bleu(answer, [reference]).score / 100, 1.0))
