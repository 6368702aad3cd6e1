"""Questions with the entry that answers each: the user's own file of pairs, or the documentation of Python's library.

The entries of all splits are one list, as the list that is searched is known beforehand; a question is in one split.
"""

from __future__ import annotations

import ast
import functools
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cluster.errors import DataError
from cluster.recipe import DataSection
from jobs.data import cells, readers, tabular
from jobs.data.readers import DeadLetter

LIBRARY = "python_library"
EVERY = 5  # pairs of the library between two of the test split; half as many go to validation
QUESTION_WORDS, ENTRY_WORDS = (3, 40), 6  # least and most words of a question, least of an entry
LEFT_OUT = {"test", "tests", "idlelib", "lib2to3", "pydoc_data", "site-packages"}


@dataclass(frozen=True)
class Pairs:
    """`entries` are texts, `labels` their ids; splits hold questions, the index of each one's entry, and its row."""

    labels: tuple[str, ...]
    entries: tuple[str, ...]
    rows: tabular.Labelled


@dataclass(frozen=True)
class Pair:
    """One question with the id and the text of its entry, and its row's number."""

    question: str
    label: str
    entry: str
    number: int


def read(section: DataSection, answers: str, seed: int) -> Pairs:
    """The recipe's pairs; `answers` names the column of entries (source table), `seed` cuts validation from train.

    Raises DataError: a file that is missing or holds no usable pair, fewer than two entries, training rows as test.
    """
    dead: list[DeadLetter] = []
    if section.source == LIBRARY:
        splits = _library()
    else:
        hashes = tabular.identity(section)
        if hashes["train"] == hashes["test"]:
            raise DataError("data.train and data.test are the same rows", got=section.test, expected="other questions")
        splits = {}
        for split, path in tabular.files(section).items():
            splits[split], letters = _clean(path, section, answers)
            dead += letters
    texts: dict[str, str] = {}
    for split, pairs in splits.items():
        for one in pairs:
            if texts.setdefault(one.label, one.entry) != one.entry:
                hint = "name another column as data.label_column, or none: then every entry is its own id"
                raise DataError(f"label {one.label} has two entries", got=f"row {one.number} of {split}", hint=hint)
    if len(texts) < 2:
        raise DataError("too few entries to search", got=len(texts), expected="2 or more")
    place = {label: number for number, label in enumerate(texts)}
    rows = {split: _rows(pairs, place) for split, pairs in splits.items()}
    if "validation" not in rows:
        rows |= _cut(rows["train"], section.validation_share, seed)
    nothing = tabular.Rows([], np.zeros(0, np.int64), np.zeros(0, np.int64))
    labelled = tabular.Labelled(tuple(texts), rows, nothing, tuple(dead))
    return Pairs(tuple(texts), tuple(texts.values()), labelled)


def identity(section: DataSection) -> dict[str, object]:
    """What names the pairs: the hash of every file, or the version of Python whose library is read."""
    return {"python": sys.version} if section.source == LIBRARY else dict(tabular.identity(section))


def sentences(text: str) -> list[str]:
    """The sentences of an entry that are long enough to be asked."""
    parts = [part.strip() for part in text.replace("? ", "?\n").replace(". ", ".\n").splitlines()]
    return [part for part in parts if QUESTION_WORDS[0] <= len(part.split()) <= QUESTION_WORDS[1]]


@functools.cache
def _library() -> dict[str, list[Pair]]:
    """The first paragraph of each documented name asks for the rest of its documentation."""
    splits: dict[str, list[Pair]] = {"train": [], "validation": [], "test": []}
    seen: set[str] = set()
    for name, text in _documented():
        question, _, rest = (" ".join(part.split()) for part in text.partition("\n\n"))
        words = len(question.split())
        fits = QUESTION_WORDS[0] <= words <= QUESTION_WORDS[1] and len(rest.split()) >= ENTRY_WORDS
        if not fits or seen & {name, question, rest}:
            continue
        seen |= {name, question, rest}
        number = len(seen) // 3 - 1
        split = {0: "test", EVERY - 1: "validation" if number // EVERY % 2 else "train"}.get(number % EVERY, "train")
        splits[split].append(Pair(question, name, f"{name.rpartition('.')[2]}: {rest}", number))
    if not all(splits.values()):
        raise DataError("this Python's library has no documentation", hint="--set data.source=table")
    return splits


def _documented() -> Iterator[tuple[str, str]]:
    """Qualified public name and documentation of every function and class of the library, in the order of its files."""
    folder = Path(sysconfig.get_path("stdlib"))
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder).with_suffix("").parts
        hidden = any(part.startswith("_") and part != "__init__" for part in parts)
        if parts[0] not in sys.stdlib_module_names or hidden or LEFT_OUT & set(parts):
            continue
        module = ".".join(part for part in parts if part != "__init__")
        yield from _of_tree(ast.parse(path.read_text(encoding="utf-8")), module)


def _of_tree(tree: ast.AST, prefix: str) -> Iterator[tuple[str, str]]:
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) or node.name.startswith("_"):
            continue
        text = ast.get_docstring(node)
        if text:
            yield f"{prefix}.{node.name}", text
        if isinstance(node, ast.ClassDef):
            yield from _of_tree(node, f"{prefix}.{node.name}")


def _clean(path: Path, section: DataSection, answers: str) -> tuple[list[Pair], list[DeadLetter]]:
    """Pairs of one file; an entry's id is the file's label where it has that column, else the entry itself."""
    required = {"text_column": section.text_column, "params.answer_column": answers}
    raw = readers.read(path, required, [section.label_column])
    dead, good = list(raw.dead), []
    for place, number in enumerate(raw.numbers):
        row = {name: column[place] for name, column in raw.columns.items()}
        try:
            question, entry = (cells.text_of(row[name]) for name in required.values())
            label = cells.key_of(row[section.label_column]) if section.label_column in row else entry
        except cells.CellError as bad:
            dead.append(DeadLetter(path.name, number, bad.reason, bad.detail))
            continue
        good.append(Pair(question, label, entry, number))
    if not good:
        expected = f"rows with {' and '.join(required.values())}"
        raise DataError(f"{path} holds no usable pair", got=f"{len(dead)} set aside", expected=expected)
    return good, dead


def _rows(pairs: list[Pair], place: dict[str, int]) -> tabular.Rows:
    labels = np.array([place[one.label] for one in pairs], np.int64)
    return tabular.Rows([one.question for one in pairs], labels, np.array([one.number for one in pairs], np.int64))


def _cut(rows: tabular.Rows, share: float, seed: int) -> dict[str, tabular.Rows]:
    count = len(rows.inputs)
    if count < 2:
        raise DataError("too few pairs to cut a validation part from", got=count, hint="give data.validation=FILE")
    chosen = np.sort(np.random.default_rng([seed, count]).permutation(count)[: max(1, round(share * count))])
    return {"train": rows.take(np.setdiff1d(np.arange(count), chosen)), "validation": rows.take(chosen)}
