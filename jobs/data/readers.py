"""Reads rows of text and label from Parquet, CSV or JSON Lines; what is no readable row is set aside with its reason.

A file that is missing, empty, of another form or without the named columns is the user's error and raised at once; a
bad row inside a good file never is.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from cluster.errors import DataError
from cluster.recipe.explain import nearest


@dataclass(frozen=True)
class DeadLetter:
    """A row set aside: its number in its file (from 0, header not counted), the kind of failure and the message."""

    file: str
    row: int
    reason: str
    detail: str


@dataclass(frozen=True)
class Raw:
    """A file's rows as they stand: `numbers` from 0, the values of each column read (None: null), rows set aside."""

    numbers: list[int]
    columns: dict[str, list[Any]]
    dead: list[DeadLetter]


def find(path: Path) -> None:
    """Raise DataError, with the nearest name beside it, when there is no such file."""
    if not path.is_file():
        near = nearest(path.name, [p.name for p in path.parent.iterdir()]) if path.parent.is_dir() else None
        hint = f"did you mean {path.parent / near}?" if near else "give the path of a file, relative to where you start"
        raise DataError("no such data file", got=str(path), expected="a Parquet, CSV or JSONL file", hint=hint)


def read(path: Path, required: dict[str, str], optional: Sequence[str] = ()) -> Raw:
    """The named columns of one file, text as bytes where it may be undecodable.

    `required` maps the recipe's key to a column name. Raises DataError: no such file, not a known form, corrupt, empty,
    or a required column missing (with the nearest column there is).
    """
    find(path)
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(
            f"{path.name}: unknown kind of file", got=path.suffix or "no ending", expected=", ".join(READERS)
        )
    if not path.stat().st_size:
        raise DataError(f"{path} is empty", got="0 bytes", expected="rows of text and label")
    try:
        return reader(path, lambda names: _choose(path, names, required, optional))
    except (pa.ArrowException, csv.Error, OSError) as error:
        kind = path.suffix.lstrip(".").lower()
        said = " ".join(str(error).split())[:200]
        raise DataError(
            f"{path} cannot be read as {kind}", got=said, hint="the file is damaged or has the wrong ending"
        ) from None


def _choose(path: Path, names: Sequence[str], required: dict[str, str], optional: Sequence[str]) -> list[str]:
    """The columns to read out of those there are. Raises DataError naming the recipe's key and the nearest column."""
    for key, column in required.items():
        if column not in names:
            near = nearest(column, names)
            shown = ", ".join(names[:20]) or "no columns"
            hint = (
                f"did you mean {near!r}? then --set data.{key}={near}"
                if near
                else f"name the column by --set data.{key}=..."
            )
            raise DataError(f"{path.name} has no column {column!r}", got=shown, expected=column, hint=hint)
    return [*required.values(), *(name for name in optional if name in names and name not in required.values())]


Choose = Callable[[Sequence[str]], list[str]]


def _parquet(path: Path, choose: Choose) -> Raw:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        table = file.read(columns=choose(file.schema_arrow.names))
    return Raw(list(range(table.num_rows)), {name: _values(table[name]) for name in table.column_names}, [])


def _csv(path: Path, choose: Choose) -> Raw:
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    numbers, dead, number = [], [], -1
    # Undecodable bytes are carried through the parser and found row by row; one of them does not end the file.
    with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as stream:
        rows = csv.reader(stream, delimiter=delimiter)
        header = next((row for row in rows if row), [])
        wanted = choose([_plain(name) for name in header])
        columns: dict[str, list[Any]] = {name: [] for name in wanted}
        places = {name: [_plain(own) for own in header].index(name) for name in wanted}
        for row in filter(None, rows):
            number += 1
            if len(row) != len(header):
                detail = f"got {len(row)} fields, expected {len(header)}: {_plain(delimiter.join(row))[:80]!r}"
                dead.append(DeadLetter(path.name, number, "malformed_row", detail))
                continue
            numbers.append(number)
            for name, place in places.items():
                columns[name].append(row[place].encode(errors="surrogateescape") if row[place] else None)
    return Raw(numbers, columns, dead)


def _plain(text: str) -> str:
    """`text` with a mark in place of what could not be decoded."""
    return text.encode(errors="surrogateescape").decode(errors="replace")


def _jsonl(path: Path, choose: Choose) -> Raw:
    rows: dict[int, dict[str, Any]] = {}
    dead, number = [], -1
    for line in path.read_bytes().splitlines():
        if not line.strip():
            continue
        number += 1
        try:
            value = json.loads(line.decode())
        except UnicodeDecodeError as error:
            dead.append(DeadLetter(path.name, number, "undecodable", str(error)))
        except json.JSONDecodeError as error:
            dead.append(DeadLetter(path.name, number, "malformed_row", f"no JSON: {error}"))
        else:
            if isinstance(value, dict):
                rows[number] = value
            else:
                dead.append(DeadLetter(path.name, number, "malformed_row", f"no JSON object: {line[:80]!r}"))
    if not rows:
        first = dead[0].detail if dead else "only blank lines"
        raise DataError(f"{path} holds no JSON object", got=first, expected="one JSON object per line")
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    wanted = choose(names)
    # A key that is absent from a row is a null there, like everywhere in JSON Lines.
    columns = {name: [row.get(name) for row in rows.values()] for name in wanted}
    return Raw(list(rows), columns, dead)


def _values(column: pa.ChunkedArray) -> list[Any]:
    """Python values of a column, text as bytes, so that undecodable rows can be told from good ones."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        column = column.cast(pa.large_string()).cast(pa.large_binary())
    if pa.types.is_list(kind) and pa.types.is_integer(kind.value_type):  # sounds: a list of them would be 30 times that
        return [one.values.to_numpy() if one.is_valid else None for one in column]
    return list(column.to_pylist())


READERS: dict[str, Callable[[Path, Choose], Raw]] = {
    ".parquet": _parquet,
    ".pq": _parquet,
    ".csv": _csv,
    ".tsv": _csv,
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
}
