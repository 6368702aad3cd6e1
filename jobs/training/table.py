"""Packed training tables: one Arrow IPC file, memory-mapped, so every worker of a node shares the same pages.

A column is an array [rows, ...] of one dtype, stored as a fixed-size list with its shape in the field's metadata.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

Columns = Mapping[str, np.ndarray]


def write(path: Path, columns: Columns) -> None:
    """Write `columns` (same number of rows each) as one record batch; readers map it without a copy."""
    table = packed(columns)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())


def packed(columns: Columns) -> pa.Table:
    """The Arrow table of `columns`."""
    fields, arrays = [], []
    for name, values in columns.items():
        flat = pa.array(np.ascontiguousarray(values).reshape(-1))
        width = int(np.prod(values.shape[1:]))
        arrays.append(pa.FixedSizeListArray.from_arrays(flat, width))
        fields.append(pa.field(name, arrays[-1].type, metadata={"shape": json.dumps(values.shape[1:])}))
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def read(path: Path) -> Columns:
    """Zero-copy views [rows, ...] of every column; valid while the file stays in place."""
    table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    out = {}
    for (name, shape), column in zip(shapes(table.schema).items(), table.columns, strict=True):
        flat = column.chunk(0).flatten().to_numpy(zero_copy_only=True) if column.num_chunks else np.zeros(0)
        out[name] = flat.reshape(table.num_rows, *shape)
    return out


def shapes(schema: pa.Schema) -> dict[str, tuple[int, ...]]:
    """Per column of a packed table the shape of one row."""
    return {field.name: tuple(json.loads(field.metadata[b"shape"])) for field in schema}


def rows(columns: Columns) -> int:
    """Number of rows of a packed table."""
    return len(next(iter(columns.values())))
