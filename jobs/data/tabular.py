"""Labelled rows of the user's own files: classes, splits and the rows set aside; nothing in them depends on the set.

Classes come from the training file. A validation split is cut from it where none is given, the same rows every time.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cluster.canonical import file_digest
from cluster.errors import DataError
from cluster.recipe import DataSection
from cluster.recipe.explain import nearest
from jobs.data import cells, readers
from jobs.data.readers import DeadLetter

NAME_COLUMN = "label_name"  # taken for the readable names where the recipe names no column and the file has this one
INTEGER = re.compile("-?[0-9]+")
SHOWN = 5  # labels listed in a message


@dataclass(frozen=True)
class Rows:
    """One split: inputs (texts, or what `Inputs.of` makes), class indices and row numbers in their file, int64 [R]."""

    inputs: list[Any]
    labels: np.ndarray
    numbers: np.ndarray

    def take(self, rows: np.ndarray) -> Rows:
        """The rows at these places, in this order."""
        return Rows([self.inputs[row] for row in rows], self.labels[rows], self.numbers[rows])


@dataclass(frozen=True)
class Inputs:
    """What a row's input is made of: `required` columns (recipe key -> name), `optional` ones, and `of`, from a row's
    values by column to the input. `of` raises CellError for a row to be set aside."""

    required: Mapping[str, str]
    optional: Sequence[str]
    of: Callable[[Mapping[str, Any]], Any]


@dataclass(frozen=True)
class Labelled:
    """A recipe's rows: class names in order of their index, the three splits, training rows that have no label (their
    class index is -1), and what was set aside in any file."""

    classes: tuple[str, ...]
    splits: Mapping[str, Rows]
    unlabelled: Rows
    dead: tuple[DeadLetter, ...]


@dataclass(frozen=True)
class _Clean:
    """Rows of one file with both input and label: label keys are text whatever the file's type was. `loose` are the
    inputs and numbers of training rows without a label."""

    inputs: list[Any]
    keys: list[str]
    names: list[str | None] | None
    numbers: list[int]
    loose: list[tuple[Any, int]]


def files(section: DataSection) -> dict[str, Path]:
    """Split -> path of the files a recipe names. Raises DataError when train or test is not given."""
    for split in ("train", "test"):
        if getattr(section, split) is None:
            hint = f"--set data.{split}=FILE (Parquet, CSV or JSONL)"
            raise DataError(f"data.{split} is not given", expected="the path of a file with text and label", hint=hint)
    named = {split: getattr(section, split) for split in ("train", "validation", "test")}
    return {split: Path(path).expanduser() for split, path in named.items() if path is not None}


def identity(section: DataSection) -> dict[str, str]:
    """Split -> sha256 of its file (64 hex), read once per path, time and size. Raises DataError when one is missing."""
    return {split: sha256(path) for split, path in files(section).items()}


def sha256(path: Path) -> str:
    """Content hash of one file (64 hex). Raises DataError when it cannot be read."""
    readers.find(path)
    try:
        status = path.stat()
        return _digest(str(path.resolve()), status.st_mtime_ns, status.st_size)
    except OSError as error:
        raise DataError(f"{path} cannot be read", got=error.strerror, expected="a file you may read") from None


@functools.lru_cache(maxsize=64)
def _digest(path: str, mtime_ns: int, size: int) -> str:
    return file_digest(Path(path))


def texts(section: DataSection) -> Inputs:
    """The recipe's text column."""
    return Inputs({"text_column": section.text_column}, (), lambda row: cells.text_of(row[section.text_column]))


def read(section: DataSection, seed: int, inputs: Inputs | None = None) -> Labelled:
    """Classes, splits and dead letters of a recipe's files, of texts or of other `inputs`; deterministic in `seed`.

    Raises DataError: a file that cannot be read or holds no usable row, fewer than two classes, a test or validation
    label that training does not know, the same file for training and test, or no row left for validation.
    """
    paths, dead, inputs = files(section), [], inputs or texts(section)
    hashes = identity(section)
    if hashes["train"] == hashes["test"]:
        raise DataError(
            "data.train and data.test are the same rows", got=str(paths["test"]), expected="rows never trained on"
        )
    clean = {}
    for split, path in paths.items():
        clean[split], letters = _clean(path, section, inputs, split == "train")
        dead += letters
    names = _names(clean["train"], section, paths["train"])
    keys = _kept(names, section)
    splits = {}
    for split, rows in clean.items():
        _refuse_unknown(rows, names, paths[split])
        splits[split] = _rows(rows, keys)
        if not splits[split].inputs:
            raise DataError(
                f"{paths[split]} has no row of the classes kept", got="0 rows", expected="data.classes that it holds"
            )
    if "validation" not in splits:
        splits |= cut(splits["train"], section.validation_share, seed)
    if section.max_rows is not None:
        splits = {split: _limit(rows, section.max_rows, seed) for split, rows in splits.items()}
    present = len(set(splits["train"].labels.tolist()))
    if present < 2:
        raise DataError(
            "too few classes to learn", got=f"{present} in {paths['train']}", expected="rows of at least 2 labels"
        )
    loose = [] if section.classes is not None else clean["train"].loose[: section.max_rows]  # of which class, who knows
    unlabelled = Rows([own for own, _ in loose], np.full(len(loose), -1), np.array([n for _, n in loose], np.int64))
    return Labelled(tuple(names[key] for key in keys), splits, unlabelled, tuple(dead))


def dead_letters(rows: Labelled) -> list[dict[str, Any]]:
    """Rows of the user's files that were set aside, as rows of the dead-letter table (`cluster.schema`)."""
    return [
        {"sample_id": f"row:{one.row}", "step": "read", "reason": one.reason, "detail": f"{one.file}: {one.detail}",
         "attempts": 1}
        for one in rows.dead
    ]  # fmt: skip


def cut(rows: Rows, share: float, seed: int) -> dict[str, Rows]:
    """Train and validation out of `rows`: `share` of every class, at least one row in all, never a class's last row.

    Raises DataError when no class has a row to spare.
    """
    place = _places(rows.labels, seed)
    counts = np.bincount(rows.labels)[rows.labels]
    spare = np.flatnonzero(place < counts - 1)
    if not len(spare):
        raise DataError("too few rows to cut a validation part from", got=f"{len(rows.inputs)} rows, one per label",
                        expected="two rows of some label", hint="give data.validation=FILE")  # fmt: skip
    wanted = max(1, round(share * len(rows.inputs)))
    chosen = np.sort(spare[np.argsort(place[spare] / counts[spare], kind="stable")][:wanted])
    return {"train": rows.take(np.setdiff1d(np.arange(len(rows.inputs)), chosen)), "validation": rows.take(chosen)}


def _limit(rows: Rows, count: int, seed: int) -> Rows:
    """At most `count` rows, every class in its share."""
    if len(rows.inputs) <= count:
        return rows
    place = _places(rows.labels, seed + 1)
    return rows.take(np.sort(np.argsort(place / np.bincount(rows.labels)[rows.labels], kind="stable")[:count]))


def _places(labels_R: np.ndarray, seed: int) -> np.ndarray:
    """Each row's place in a shuffle of its own class, 0 to count, float64 [R]: divided by the class's count and sorted,
    the first n rows are a stratified choice of n. A class's random offset spreads the rounding over classes."""
    rng = np.random.default_rng([seed, len(labels_R)])
    out = np.empty(len(labels_R))
    for label in range(int(labels_R.max()) + 1):
        own = np.flatnonzero(labels_R == label)
        out[rng.permutation(own)] = np.arange(len(own)) + rng.random()
    return out


def _clean(path: Path, section: DataSection, inputs: Inputs, train: bool) -> tuple[_Clean, list[DeadLetter]]:
    """Rows of a file that have an input and a label (in training the label may be missing), and those that have not.

    Raises DataError when no row has both.
    """
    required = {**inputs.required, "label_column": section.label_column}
    name_column = section.label_name_column or NAME_COLUMN
    if train and section.label_name_column is not None:
        required["label_name_column"] = section.label_name_column
    raw = readers.read(path, required, [*inputs.optional, *([name_column] if train else [])])
    dead, good, keys, kept, loose = list(raw.dead), [], [], [], []
    for place, number in enumerate(raw.numbers):
        row = {name: column[place] for name, column in raw.columns.items()}
        try:
            own = inputs.of(row)
            if train and cells.is_null(row[section.label_column]):
                loose.append((own, number))
                continue
            key = cells.key_of(row[section.label_column])
        except cells.CellError as bad:
            dead.append(DeadLetter(path.name, number, bad.reason, bad.detail))
            continue
        good.append(own)
        keys.append(key)
        kept.append(place)
    if not kept:
        counts = dict(Counter(letter.reason for letter in dead))
        asked = " and ".join([*inputs.required.values(), section.label_column])
        raise DataError(f"{path} holds no usable row", got=f"{counts or 'no rows'}", expected=f"rows with {asked}")
    names = [cells.name_of(raw.columns[name_column][place]) for place in kept] if name_column in raw.columns else None
    return _Clean(good, keys, names, [raw.numbers[place] for place in kept], loose), dead


def _names(train: _Clean, section: DataSection, path: Path) -> dict[str, str]:
    """Label key -> readable name, in the order of classes: integers by size, names by the alphabet.

    Raises DataError when a named column gives a label two names, or two labels one.
    """
    ordered = sorted(set(train.keys))
    if all(INTEGER.fullmatch(key) for key in ordered):
        ordered.sort(key=int)
    own = {key: key for key in ordered}
    if train.names is None:
        return own
    pairs = set(zip(train.keys, train.names, strict=True))
    if (
        len(pairs) == len(ordered)
        and len({name for _, name in pairs}) == len(pairs)
        and None not in dict(pairs).values()
    ):
        named = dict(pairs)
        return {key: str(named[key]) for key in ordered}
    if section.label_name_column is None:
        return own  # nobody asked for that column
    label, count = Counter(key for key, _ in pairs).most_common(1)[0]
    got = f"{len(pairs)} pairs for {len(ordered)} labels; label {label} has {count} names"
    raise DataError(f"{path.name}: {section.label_name_column} does not name labels one to one", got=got)


def _kept(names: Mapping[str, str], section: DataSection) -> list[str]:
    """The label keys that the recipe keeps, in class order. Raises DataError for one that training does not have."""
    if section.classes is None:
        return list(names)
    by_name = {name: key for key, name in names.items()}
    wanted = set()
    for label in map(str, section.classes):
        if label not in names and label not in by_name:
            near = nearest(label, [*names, *by_name])
            hint = f"did you mean {near}?" if near else None
            raise DataError(f"data.classes: no training row has label {label}", expected=_some(by_name), hint=hint)
        wanted.add(label if label in names else by_name[label])
    return [key for key in names if key in wanted]


def _refuse_unknown(rows: _Clean, names: Mapping[str, str], path: Path) -> None:
    unknown = Counter(key for key in rows.keys if key not in names)
    if unknown:
        first = rows.keys.index(next(iter(unknown)))
        got = f"{_some(unknown)} in {sum(unknown.values())} rows, the first is row {rows.numbers[first]}"
        hint = "add training rows of it, or take these rows out"
        raise DataError(
            f"{path} has labels that the training rows do not have", got=got, expected=_some(names), hint=hint
        )


def _rows(rows: _Clean, keys: list[str]) -> Rows:
    index = {key: place for place, key in enumerate(keys)}
    kept = [place for place, key in enumerate(rows.keys) if key in index]
    labels = np.array([index[rows.keys[place]] for place in kept], np.int64)
    return Rows(
        [rows.inputs[place] for place in kept], labels, np.array([rows.numbers[place] for place in kept], np.int64)
    )


def _some(labels: Iterable[str]) -> str:
    listed = list(labels)
    more = f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else ""
    return ", ".join(listed[:SHOWN]) + more
