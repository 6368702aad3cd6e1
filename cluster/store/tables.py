"""Append-only tables of the store, `TABLE/MODEL/*.parquet`: many small files, each written whole, never changed.

A file's name begins with the millisecond it was written at, so that readers skip what is old without opening it.
"""

from __future__ import annotations

import io
import uuid
from typing import TYPE_CHECKING, Any

from cluster import schema
from cluster.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pyarrow as pa


def append(store: Store, table: str, model: str, rows: Sequence[Mapping[str, Any]], now_ms: int) -> str:
    """Write rows (columns of `cluster.schema`; absent ones are null) as one file and return its key.

    Raises KeyError on an unknown table, ArtifactMismatch on a row without a column that may not be null.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    fields = schema.schema(table)
    columns = {field.name: [row.get(field.name) for row in rows] for field in fields}
    made = schema.conform(pa.table(columns, schema=pa.schema([field.with_nullable(True) for field in fields])), table)
    buffer = io.BytesIO()
    pq.write_table(made, buffer, compression="zstd")
    key = f"{table}/{model}/{now_ms:013d}-{uuid.uuid4().hex}.parquet"
    store.write_file(key, buffer.getvalue())
    return key


def read(store: Store, table: str, model: str, since_ms: int = 0) -> pa.Table:
    """All rows in the order of their files, of files written at `since_ms` or later; no rows where nothing was written.

    A file that is removed meanwhile is passed over; a column that came after it was written, and may be null, is null
    in its rows. Raises ArtifactMismatch on a file of another schema.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    found = [schema.schema(table).empty_table()]
    for key in store.files(f"{table}/{model}"):
        if written_ms(key) < since_ms:
            continue
        data = store.read_file(key)
        if data is not None:
            one = pq.read_table(io.BytesIO(data))
            schema.check_version(one, table)
            found.append(schema.conform(one, table))
    return pa.concat_tables(found)


def expire(store: Store, table: str, model: str, before_ms: int) -> int:
    """Remove the files written before `before_ms`; returns how many (count)."""
    old = [key for key in store.files(f"{table}/{model}") if written_ms(key) < before_ms]
    for key in old:
        store.remove_file(key)
    return len(old)


def written_ms(key: str) -> int:
    """When a file was written (ms since 1970, UTC)."""
    return int(key.rpartition("/")[2].partition("-")[0])
