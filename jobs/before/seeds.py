"""Seed rows: what any file of a user is turned into, and the split that a row's own content decides."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from cluster.canonical import digest
from jobs.data import cells
from jobs.data.readers import DeadLetter

SPLITS = ("train", "validation", "test")
_DIGITS = 13  # hex digits of a hash that a float64 holds exactly


@dataclass(frozen=True)
class Seed:
    """One row: its file and number there, a text or a picture, and what else is known of it.

    `messages` is the JSON of the conversation up to the answer, `response` the answer somebody's model gave.
    """

    file: str
    row: int
    text: str | None = None
    image: bytes | None = None
    image_format: str | None = None
    label: str | None = None
    label_name: str | None = None
    system: str | None = None
    messages: str | None = None
    response: str | None = None
    model: str | None = None
    finish_reason: str | None = None
    split: str | None = None

    @property
    def key(self) -> str:
        """What a repeat of the row has in common with it: its text with case and spaces folded, or its picture."""
        if self.image is not None:
            return hashlib.sha256(self.image).hexdigest()
        return cells.folded(self.text or "")


@dataclass(frozen=True)
class Found:
    """Rows read from some files, and those set aside: file, row (from 0, without header and blank lines), reason."""

    rows: list[Seed]
    dead: list[DeadLetter]


@dataclass(frozen=True)
class Shares:
    """Parts of the rows (each 0 to below 1, together below 1) that are kept for validation and test, and the seed."""

    validation: float
    test: float
    seed: int


def place(row: Seed, shares: Shares) -> str:
    """The row's split, a function of its content and the seed alone: repeats share it, and other rows never change it.

    A split that the user's own folders say (`Seed.split`) stands.
    """
    if row.split is not None:
        return row.split
    at = int(digest([shares.seed, row.key])[:_DIGITS], 16) / 16**_DIGITS
    if at < shares.test:
        return "test"
    return "validation" if at < shares.test + shares.validation else "train"


def divide(rows: Sequence[Seed], shares: Shares) -> tuple[dict[str, list[Seed]], list[DeadLetter]]:
    """Split -> its rows in the order given, and dead letters for labels that no training row has.

    Such a row is not moved into train: with more rows of its label it is back in the split that its content decides.
    """
    parts: dict[str, list[Seed]] = {split: [] for split in SPLITS}
    for row in rows:
        parts[place(row, shares)].append(row)
    known = {row.label for row in parts["train"]} | {None}
    dead = [
        DeadLetter(row.file, row.row, "label_not_in_train", f"{row.label}: its rows are all in {split}")
        for split in SPLITS[1:]
        for row in parts[split]
        if row.label not in known
    ]
    return {split: [row for row in own if row.label in known] for split, own in parts.items()}, dead


def repeats(rows: Sequence[Seed]) -> int:
    """How many rows repeat an earlier one (case and spaces folded)."""
    return sum(count - 1 for count in Counter(row.key for row in rows).values())
