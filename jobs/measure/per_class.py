"""What a model makes of every class: precision, recall and F1, and which classes it takes for which."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

CLASSES_MAX = 200  # different true answers: beyond them answers are texts, not classes
SHOWN = 30  # classes of the confusion table
PAIRS = 15
OTHER = "(other)"


def measure(truth: Sequence[str], answers: Sequence[str]) -> dict[str, Any] | None:
    """`classes` (name, precision, recall, f1, support; in the order of names), `confusion` (labels, counts: rows are
    the truth) and `pairs`, the most frequent mistakes. None where truths are texts.

    Precision is 0 for a class that is never answered, as scikit-learn's `zero_division=0`. The confusion table holds
    the classes with the most mistakes and the rest together as OTHER, answers that are no class too.
    """
    names = sorted(set(truth))
    if len(names) > CLASSES_MAX or len(names) == len(truth):
        return None
    support, given = Counter(truth), Counter(answers)
    hits = Counter(true for true, own in zip(truth, answers, strict=True) if true == own)
    wrong = Counter((true, own) for true, own in zip(truth, answers, strict=True) if true != own)
    return {
        "classes": [_class(name, hits[name], given[name], support[name]) for name in names],
        "confusion": _confusion(names, truth, answers, wrong),
        "pairs": [{"truth": true, "answer": own, "rows": rows} for (true, own), rows in wrong.most_common(PAIRS)],
    }


def _class(name: str, hits: int, given: int, support: int) -> dict[str, Any]:
    f1 = 2 * hits / (given + support)
    return {"name": name, "precision": hits / given if given else 0.0, "recall": hits / support, "f1": f1,
            "support": support}  # fmt: skip


def _confusion(
    names: Sequence[str], truth: Sequence[str], answers: Sequence[str], wrong: Counter[tuple[str, str]]
) -> dict[str, Any]:
    mistakes: Counter[str] = Counter()
    for (true, own), rows in wrong.items():
        mistakes[true] += rows
        mistakes[own] += rows
    kept = set(sorted(names, key=lambda name: (-mistakes[name], name))[:SHOWN])
    labels = [name for name in names if name in kept]
    place = {name: index for index, name in enumerate(labels)}
    rows_of = [place.get(name, len(labels)) for name in truth]
    columns_of = [place.get(name, len(labels)) for name in answers]
    counts = np.zeros((len(labels) + 1, len(labels) + 1), int)
    np.add.at(counts, (rows_of, columns_of), 1)
    if not counts[-1].any() and not counts[:, -1].any():
        return {"labels": labels, "counts": counts[:-1, :-1].tolist()}
    return {"labels": [*labels, OTHER], "counts": counts.tolist()}
