"""Where a training's rows are read from: a memory-mapped table, or a file far away of which a step's rows are fetched.

Both give the same batches for the same plan: which rows a step has is decided before, from the index.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa

from jobs.training import streamed, table
from jobs.training.table import Columns

Shown = tuple[Columns, np.ndarray]  # columns that hold some rows, and where in them these are
Stream = Callable[[np.ndarray, str], Iterator[pa.Table]]


class Held(Protocol):
    """The rows of a training."""

    index: Columns  # at least what has one number per row

    def some(self, rows: np.ndarray) -> Shown:
        """These rows of the table, by number."""

    def steps(self, plan: np.ndarray) -> Generator[Shown]:
        """The rows of each step of a plan [steps, rows], one step after the other."""


class Mapped:
    """A table in a file of this node, or of a folder that it shares."""

    def __init__(self, path: Path) -> None:
        self.index = table.read(path)

    def some(self, rows: np.ndarray) -> Shown:
        """See `Held.some`; nothing is copied."""
        return self.index, rows

    def steps(self, plan: np.ndarray) -> Generator[Shown]:
        """See `Held.steps`."""
        for rows in plan:
            yield self.index, rows


class Streamed:
    """An index in a file of this node, the rest of every row at `uri` (`jobs.training.streamed`)."""

    def __init__(self, path: Path, uri: str, stream: Stream) -> None:
        self.index, self._uri, self._stream = table.read(path), uri, stream
        self._shapes = streamed.shapes_of(uri)

    def some(self, rows: np.ndarray) -> Shown:
        """See `Held.some`; they are fetched now."""
        return self._shown(rows, streamed.fetch(rows, self._uri))

    def steps(self, plan: np.ndarray) -> Generator[Shown]:
        """See `Held.steps`; as far ahead of the training as the runner's stream reads."""
        for rows, found in zip(plan, self._stream(plan, self._uri), strict=True):
            yield self._shown(rows, found)

    def _shown(self, rows: np.ndarray, found: pa.Table) -> Shown:
        own = {name: values[rows] for name, values in self.index.items()}
        return own | streamed.unpacked(found, self._shapes), np.arange(len(rows))


def held(path: Path, uri: str | None, stream: Stream) -> Held:
    """The rows of a table, or with `uri` of an index whose rows are there."""
    return Mapped(path) if uri is None else Streamed(path, uri, stream)


def here(plan: np.ndarray, uri: str) -> Iterator[pa.Table]:
    """A stream without Ray: each step's rows are fetched when they are asked for."""
    return map(partial(streamed.fetch, uri=uri), plan)
