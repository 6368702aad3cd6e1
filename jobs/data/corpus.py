"""Texts to learn a language from: the user's own rows, or the source code of the standard library that is installed.

A row is a text, or a prompt with its response. Where the user gives no validation file it is cut from the training
rows; of the library every twentieth file is for the test and every twentieth for validation: no file is in two splits.
"""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cluster.errors import DataError
from cluster.recipe import DataSection
from jobs.data import cells, readers, tabular
from jobs.data.readers import DeadLetter

LIBRARY = "python_library"
EVERY = 20  # files between two of the test split, and of the validation split
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Document:
    """One row: its text (or prompt), the response where rows have one, and its number in its file."""

    text: str
    response: str | None
    number: int


@dataclass(frozen=True)
class Corpus:
    """The three splits in the order of their files, and the rows that were set aside in any."""

    splits: Mapping[str, Sequence[Document]]
    dead: tuple[DeadLetter, ...]


def read(section: DataSection, prompt: str | None, response: str, seed: int) -> Corpus:
    """The rows of a recipe; `prompt` and `response` name columns (prompt null: rows are texts), `seed` cuts validation.

    Raises DataError: a file that is missing, cannot be read or holds no usable row; the same file to train and to test.
    """
    if section.source == LIBRARY:
        return _library()
    hashes = tabular.identity(section)
    if hashes["train"] == hashes["test"]:
        raise DataError(
            "data.train and data.test are the same rows", got=section.test, expected="rows never trained on"
        )
    splits: dict[str, Sequence[Document]] = {}
    dead: list[DeadLetter] = []
    for split, path in tabular.files(section).items():
        splits[split], letters = _clean(path, section, prompt, response)
        dead += letters
    if "validation" not in splits:
        splits |= _cut(splits["train"], section.validation_share, seed)
    return Corpus(splits, tuple(dead))


def identity(section: DataSection) -> dict[str, Any]:
    """What names the rows: the sha256 of every file."""
    if section.source == LIBRARY:
        return {"python": [[path.name, tabular.sha256(path)] for path in library_files()]}
    return dict(tabular.identity(section))


def library_files() -> list[Path]:
    """The top-level modules of the standard library that are written in Python, by name."""
    folder = Path(sysconfig.get_path("stdlib"))
    return [path for path in sorted(folder.glob("*.py")) if path.stem in sys.stdlib_module_names]


def _library() -> Corpus:
    splits: dict[str, list[Document]] = {name: [] for name in SPLITS}
    for number, path in enumerate(library_files()):
        split = {0: "test", EVERY // 2: "validation"}.get(number % EVERY, "train")
        splits[split].append(Document(path.read_text(encoding="utf-8"), None, number))
    if not all(splits.values()):
        got = f"{ {name: len(files) for name, files in splits.items()} } files"
        raise DataError("this Python has no source of its library", got=got, hint="--set data.source=table")
    return Corpus(splits, ())


def _clean(
    path: Path, section: DataSection, prompt: str | None, response: str
) -> tuple[list[Document], list[DeadLetter]]:
    required = {"text_column": section.text_column}
    if prompt is not None:
        required = {"params.prompt_column": prompt, "params.response_column": response}
    raw = readers.read(path, required)
    columns = [raw.columns[name] for name in required.values()]
    dead, good = list(raw.dead), []
    for number, *values in zip(raw.numbers, *columns, strict=True):
        try:
            texts = [cells.text_of(value) for value in values]
        except cells.CellError as bad:
            dead.append(DeadLetter(path.name, number, bad.reason, bad.detail))
            continue
        good.append(Document(texts[0], texts[1] if prompt is not None else None, number))
    if not good:
        raise DataError(f"{path} holds no usable row", got=f"{len(dead)} set aside", expected="rows with a text")
    return good, dead


def _cut(rows: Sequence[Document], share: float, seed: int) -> dict[str, Sequence[Document]]:
    """Train and validation out of `rows`, both in their order. Raises DataError for a single row."""
    if len(rows) < 2:
        raise DataError("too few rows to cut a validation part from", got=len(rows), hint="give data.validation=FILE")
    order = np.random.default_rng([seed, len(rows)]).permutation(len(rows))
    chosen = set(order[: max(1, round(share * len(rows)))].tolist())
    parts: dict[str, Sequence[Document]] = {}
    parts["train"] = [row for place, row in enumerate(rows) if place not in chosen]
    parts["validation"] = [row for place, row in enumerate(rows) if place in chosen]
    return parts


def windows(text: str, tokenizer: Any, longest: int) -> list[str]:
    """A text in pieces of at most about `longest` tokens, cut where a word or a line begins; blank pieces are left out.

    A piece may come out a token longer when it is read alone: whoever reads it cuts it off.
    """
    starts = [start for start, _ in tokenizer.encode(text, add_special_tokens=False).offsets]
    out, at = [], 0
    while at < len(starts):
        end = min(at + longest, len(starts))
        if end < len(starts):
            soft = range(end, at + longest // 2, -1)
            end = next((place for place in soft if _begins(text, starts[place])), end)
        piece = text[starts[at] : starts[end] if end < len(starts) else len(text)]
        if piece.strip():
            out.append(piece)
        at = end
    return out


def _begins(text: str, at: int) -> bool:
    return text[at].isspace() or text[at - 1] == "\n"
