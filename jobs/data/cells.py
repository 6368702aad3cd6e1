"""Single values of a user's file: the text of a row, and its label as a key that is the same in every kind of file."""

from __future__ import annotations

import math
from typing import Any


class CellError(Exception):
    """A value that makes its row a dead letter."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


def _decoded(value: Any, what: str) -> Any:
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise CellError("undecodable", f"{what}: {error}") from None


def text_of(value: Any) -> str:
    """The text as it stands. Raises CellError: null, blank, undecodable or no string."""
    text = _decoded(value, "text")
    if text is None:
        raise CellError("null_text", "the text is null")
    if not isinstance(text, str):
        raise CellError("wrong_type", f"text: got {type(text).__name__}, expected a string")
    if not text.strip():
        raise CellError("empty_text", f"text: got {text!r}, expected words")
    return text


def folded(text: str) -> str:
    """A text as its repeats have it too: lower case, one space between words."""
    return " ".join(text.lower().split())


def is_null(label: Any) -> bool:
    """Whether there is no label: null, not a number, or blank."""
    if isinstance(label, str | bytes):
        return not label.strip()
    return label is None or (isinstance(label, float) and math.isnan(label))


def key_of(value: Any) -> str:
    """A label as text, the same for 3, 3.0 and "3". Raises CellError: null, undecodable or no name and no number."""
    label = _decoded(value, "label")
    if isinstance(label, float) and math.isfinite(label) and label.is_integer():
        label = int(label)
    if is_null(label):
        raise CellError("null_label", "the label is null or blank")
    if isinstance(label, bool):
        return str(label).lower()
    if isinstance(label, str | int | float):
        return str(label).strip()
    raise CellError("wrong_type", f"label: got {type(label).__name__}, expected a name or an integer")


def name_of(value: Any) -> str | None:
    """A label's readable name, None where there is none."""
    try:
        return key_of(value)
    except CellError:
        return None
