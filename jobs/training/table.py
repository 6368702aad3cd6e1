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
    fields, arrays = [], []
    for name, values in columns.items():
        flat = pa.array(np.ascontiguousarray(values).reshape(-1))
        width = int(np.prod(values.shape[1:]))
        arrays.append(pa.FixedSizeListArray.from_arrays(flat, width))
        fields.append(pa.field(name, arrays[-1].type, metadata={"shape": json.dumps(values.shape[1:])}))
    table = pa.Table.from_arrays(arrays, schema=pa.schema(fields))
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())


def read(path: Path) -> Columns:
    """Zero-copy views [rows, ...] of every column; valid while the file stays in place."""
    table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    out = {}
    for field, column in zip(table.schema, table.columns, strict=True):
        shape = json.loads(field.metadata[b"shape"])
        flat = column.chunk(0).flatten().to_numpy(zero_copy_only=True) if column.num_chunks else np.zeros(0)
        out[field.name] = flat.reshape(table.num_rows, *shape)
    return out


def rows(columns: Columns) -> int:
    """Number of rows of a packed table."""
    return len(next(iter(columns.values())))
