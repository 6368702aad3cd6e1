"""Finds, masks or drops structured personal data in texts; `find` and `mask` also serve what people import.

In curation a row is dropped, not masked: a masked prompt is no longer what the teacher answered.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import numpy as np
from pydantic import Field

from cluster.recipe.base import Section
from jobs.data.filters import pii_kinds
from jobs.data.filters.pii_kinds import Span
from jobs.data.filters.rows import Rows, Verdicts

Kind = Literal["email", "url", "ip", "iban", "card", "ssn", "phone"]
# In order of precedence: where two overlap, the first names the span. A model for names is one more line and one more
# `Kind`; `find` takes detectors of the caller's own, too.
DETECTORS: dict[str, Callable[[str], Iterable[Span]]] = {
    "email": pii_kinds.email,
    "url": pii_kinds.url,
    "ip": pii_kinds.ip,
    "iban": pii_kinds.iban,
    "card": pii_kinds.card,
    "ssn": pii_kinds.ssn,
    "phone": pii_kinds.phone,
}
# What a text must hold for a detector to be asked at all; a kind that is not named here is always asked.
SIGNS = {"email": re.compile("@"), "url": re.compile(r"\.\w|://"), "ip": re.compile(r"\d\.\d|[\da-f]:", re.IGNORECASE)}
SIGNS |= dict.fromkeys(("iban", "card", "ssn", "phone"), re.compile(r"\d\D{0,3}\d\D{0,3}\d"))
KINDS: list[Kind] = ["email", "url", "ip", "iban", "card", "ssn", "phone"]


class Params(Section):
    """What is looked for, and where."""

    kinds: list[Kind] = Field(KINDS, min_length=1, description="kinds of personal data that a row may not hold")
    columns: list[Literal["prompt", "response"]] = Field(
        ["prompt", "response"], min_length=1, description="texts looked at"
    )


def find(text: str, kinds: Sequence[str] = KINDS, more: Sequence[Callable[[str], Iterable[Span]]] = ()) -> list[Span]:
    """Spans in the order of the text, none overlapping: of `kinds` first, then of the caller's own detectors `more`.

    Raises ValueError on a kind that has no detector.
    """
    if unknown := set(kinds) - set(DETECTORS):
        raise ValueError(f"no detector of {', '.join(sorted(unknown))}; there are {', '.join(DETECTORS)}")
    taken: list[Span] = []
    own = [detector for kind, detector in DETECTORS.items() if kind in kinds and _worth(kind, text)]
    for detector in (*own, *more):
        for span in detector(text):
            if all(span.end <= other.start or span.start >= other.end for other in taken):
                taken.append(span)
    return sorted(taken, key=lambda span: span.start)


def _worth(kind: str, text: str) -> bool:
    """Whether the text holds what every span of that kind has: most texts have nothing, and are passed at once."""
    sign = SIGNS.get(kind)
    return sign is None or sign.search(text) is not None


def mask(text: str, kinds: Sequence[str] = KINDS, more: Sequence[Callable[[str], Iterable[Span]]] = ()) -> str:
    """The text with every span replaced by its kind: "<EMAIL>"."""
    out, last = [], 0
    for span in find(text, kinds, more):
        out += [text[last : span.start], f"<{span.kind.upper()}>"]
        last = span.end
    return "".join([*out, text[last:]])


def pii(rows: Rows, params: Params) -> Verdicts:
    """ "pii_KIND" of the first span in a row; the score is the number of spans."""
    texts = [rows.samples[column].to_pylist() for column in params.columns]
    spans = [[span for text in row if text for span in find(text, params.kinds)] for row in zip(*texts, strict=True)]
    reasons = [f"pii_{found[0].kind}" if found else None for found in spans]
    return Verdicts(reasons, np.array([len(found) for found in spans], np.float64))
