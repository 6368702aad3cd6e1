"""What every kind of student in a bundle shares: its answers, its errors, and how rows are put together.

Shape legend: B rows, S prompt tokens, V vocabulary or classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


class BundleError(ValueError):
    """The bundle or a request does not fit: names the file or field, what was got and what was expected."""


@dataclass(frozen=True)
class Answer:
    """One answer: `text` (or the class name), `confidence` in 0..1 (exp of the mean token log-probability, or the
    largest class probability), and `probabilities` by class for classifiers."""

    text: str
    confidence: float
    probabilities: dict[str, float] | None = None


def softmax(logits: Array) -> Array:
    """Probabilities over the last axis, float32."""
    shifted = np.exp(logits - np.maximum.reduce(logits, -1, keepdims=True))  # `.max` calls this, through Python
    return np.asarray(shifted / np.add.reduce(shifted, -1, keepdims=True), np.float32)


def named(probabilities_V: Array, labels: Sequence[str]) -> Answer:
    """The likeliest label with its probability, and every label's."""
    by_label = dict(zip(labels, probabilities_V.tolist(), strict=True))
    best = labels[int(probabilities_V.argmax())]
    return Answer(best, by_label[best], by_label)


def read_tokenizer(folder: Path) -> Any:
    """The tokenizer of a model folder or bundle."""
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def text_of(item: Mapping[str, Any]) -> str:
    """The text of a request. Raises BundleError when there is none, or what was given is no Unicode text."""
    if not isinstance(text := item.get("text"), str) or not text.strip():
        raise BundleError(f"text: got {text!r:.80}, expected a non-empty string")
    try:
        text.encode()
    except UnicodeEncodeError as error:  # a shell's bytes that are no UTF-8 arrive as lone surrogates
        raise BundleError(f"text: got {text!r:.80}, which cannot be written as UTF-8") from error
    return text


def stacked(ids: Sequence[Array], rows: Sequence[int]) -> Array:
    """These rows of ids, all of one length, as one array [B, S]; a lone one is not copied."""
    return ids[rows[0]][None] if len(rows) == 1 else np.stack([ids[row] for row in rows])


def by_length(ids: Sequence[Array], run: Callable[[list[int]], Any], batch: int = 256) -> list[Any]:
    """Values of `run(rows)` in row order, asked for rows of one length at a time, at most `batch`: no row is ever
    padded (padding would change what `fast` INT8 answers)."""
    if len(ids) == 1:
        return list(run([0]))
    groups: dict[int, list[int]] = {}
    for row, one in enumerate(ids):
        groups.setdefault(len(one), []).append(row)
    parts = [rows[start : start + batch] for rows in groups.values() for start in range(0, len(rows), batch)]
    found = {row: value for rows in parts for row, value in zip(rows, run(rows), strict=True)}
    return [found[row] for row in range(len(ids))]
