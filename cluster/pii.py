"""Finds or masks structured personal data in texts, for what people import, what is curated and what serving logs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

from cluster import pii_kinds
from cluster.pii_kinds import Span

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
