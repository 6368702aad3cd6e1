"""Packed rows that stay where they are, a shared folder or a bucket: a worker reads the rows of its steps, no others.

One Arrow IPC file of small record batches, so that any row is one short read away. The table in the scratch folder then
holds an index alone: what has one number per row, from which the order of all batches follows as ever.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import numpy as np
import pyarrow as pa

from cluster.errors import RecipeError
from jobs.training import table
from jobs.training.table import Columns

BLOCK_BYTES = 1 << 18  # of a record batch: little is read in vain, and a row is one request to a bucket
STEPS_OF_A_TASK = 8
STEPS_OF_A_PIPELINE = 4096  # starting one costs seconds, its plan lies in the object store
TASKS_AT_ONCE = 4
BLOCK_ROWS = b"block_rows"


def place(root: str, *keys: str) -> str:
    """The file of some packed rows below `root`, a folder or a URI (whose query, as an endpoint, stays at its end);
    relative folders are of this process."""
    if "://" not in root:
        return str(Path(root).expanduser().resolve().joinpath(*keys))
    parts = urlsplit(root)
    return urlunsplit(parts._replace(path="/".join([parts.path.rstrip("/"), *keys])))


def check(at: str, root: str) -> None:
    """Raises RecipeError where pyarrow knows no such file system."""
    try:
        _system(place(root))
    except (ValueError, OSError, ImportError) as error:
        expected = "a folder that every worker sees, or a URI like s3://bucket/rows or gs://bucket/rows"
        raise RecipeError(f"{at}: no such place", got=f"{root}: {error}", expected=expected) from None


def write(uri: str, columns: Columns) -> Columns:
    """Write every column of several numbers per row and return the others, which are the index."""
    _reader.cache_clear()
    wide = {name: values for name, values in columns.items() if values.ndim > 1}
    row_bytes = sum(values[:1].nbytes for values in wide.values())
    size, count = max(1, BLOCK_BYTES // max(1, row_bytes)), table.rows(columns)
    system, path = _system(uri)
    system.create_dir(path.rpartition("/")[0], recursive=True)
    schema = table.packed({name: values[:0] for name, values in wide.items()}).schema
    about = schema.with_metadata({BLOCK_ROWS: str(size)})
    with system.open_output_stream(path) as sink, pa.ipc.new_file(sink, about) as writer:
        for start in range(0, count, size):
            block = table.packed({name: values[start : start + size] for name, values in wide.items()})
            writer.write_table(block.replace_schema_metadata(about.metadata))
    return {name: values for name, values in columns.items() if values.ndim == 1}


def there(uri: str) -> bool:
    """Whether the file is there; it may be cut short where a writer was killed."""
    system, path = _system(uri)
    return bool(system.get_file_info(path).is_file)


def remove(uri: str) -> None:
    """Remove the file; none there is no error."""
    system, path = _system(uri)
    if there(uri):
        system.delete_file(path)


def fetch(rows: np.ndarray, uri: str) -> pa.Table:
    """Rows of the file by their numbers, in that order; reads the record batches they are in."""
    reader, size = _reader(uri)
    blocks_R = rows // size
    order_R = np.argsort(blocks_R, kind="stable")
    parts = []
    for block, first, count in zip(*np.unique(blocks_R[order_R], return_index=True, return_counts=True), strict=True):
        own = rows[order_R[first : first + count]] - block * size
        parts.append(pa.Table.from_batches([reader.get_batch(int(block))]).take(pa.array(own)))
    return pa.concat_tables(parts).take(pa.array(np.argsort(order_R)))


def unpacked(rows: pa.Table, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """What `fetch` gave as arrays [R, ...]."""
    arrays = {name: rows[name].combine_chunks().flatten().to_numpy(zero_copy_only=False) for name in shapes}
    return {name: flat.reshape(len(rows), *shapes[name]) for name, flat in arrays.items()}


def shapes_of(uri: str) -> dict[str, tuple[int, ...]]:
    """Per column the shape of one row."""
    return table.shapes(_reader(uri)[0].schema)


def ahead(plan: np.ndarray, uri: str) -> Iterator[pa.Table]:
    """What `fetch` gives for each step of a plan [steps, rows], read ahead by Ray Data's tasks on the whole cluster.

    The order is the plan's for any number of tasks. They take no CPU of Ray's account: they wait for bytes, and the
    training workers may hold all of it.
    """
    for start in range(0, len(plan), STEPS_OF_A_PIPELINE):
        yield from _pipeline(plan[start : start + STEPS_OF_A_PIPELINE], uri)


def _pipeline(plan: np.ndarray, uri: str) -> Iterator[pa.Table]:
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    parts = [plan[at : at + STEPS_OF_A_TASK] for at in range(0, len(plan), STEPS_OF_A_TASK)]
    # `from_arrow` measures its tables in a task that takes a whole CPU, which the training worker may be holding.
    asked = ray.data.from_blocks([pa.table({"row": part.reshape(-1)}) for part in parts])
    read: Any = functools.partial(_read, uri=uri)
    tasks = min(TASKS_AT_ONCE, len(parts))
    found = asked.map_batches(read, batch_size=None, batch_format="pyarrow", num_cpus=0, concurrency=tasks)
    yield from found.iter_batches(batch_size=plan.shape[1], batch_format="pyarrow", prefetch_batches=2)


def _read(asked: pa.Table, uri: str) -> pa.Table:
    return fetch(asked["row"].to_numpy(), uri)


@functools.lru_cache(maxsize=4)
def _reader(uri: str) -> tuple[pa.ipc.RecordBatchFileReader, int]:
    """The opened file and how many rows its record batches have, the last one perhaps fewer."""
    system, path = _system(uri)
    reader = pa.ipc.open_file(system.open_input_file(path))
    return reader, int(reader.schema.metadata[BLOCK_ROWS])


def _system(uri: str) -> tuple[Any, str]:
    from pyarrow import fs

    return fs.FileSystem.from_uri(uri)  # type: ignore[no-any-return]
