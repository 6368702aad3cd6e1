"""Writes soft-label tables packed, streams them back joined to their samples by `sample_id`, and weighs them.

Nothing is matched by position: every batch of labels asks for its own samples by id.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from cluster import schema
from cluster.errors import ArtifactMismatch

SAMPLES, LABELS = "samples.parquet", "soft_labels.parquet"
ROW_GROUP = 4096  # rows: the unit that the reader holds in memory, of labels and of the samples they ask for
# What makes a label; what is left (ids of the rows, answers, hidden states) is reported beside it.
LABEL_COLUMNS = ("logits", "ids", "entries", "counts", "log_sum_exp", "log_sum_exp_t", "tail", "tail_t", "entropy")
SPLIT = ("logits", "ids", "log_sum_exp", "log_sum_exp_t", "tail", "tail_t", "entropy", "tokens", "hidden_scale")


def write(labels: pa.Table, path: Path) -> None:
    """Write a table of `cluster.schema` "soft_labels" in the bytes that it is worth.

    Numbers are split into their bytes and compressed: the upper bytes of ids and logits repeat, the lower do not.
    """
    table = schema.conform(labels, "soft_labels")
    pq.write_table(
        table, path, row_group_size=ROW_GROUP, compression="zstd", compression_level=9, use_dictionary=False,
        column_encoding={f"{name}.list.element": "BYTE_STREAM_SPLIT" for name in SPLIT},
    )  # fmt: skip


def stream(folder: Path, rows: int = 512) -> Iterator[tuple[pa.Table, pa.Table]]:
    """Batches (samples, soft labels) of at most `rows` rows of an artifact's folder, joined by `sample_id`.

    Memory is that of one row group of each file. Raises ArtifactMismatch when a column is not the schema's, or when a
    label's sample is not there.
    """
    samples = ds.dataset(folder / SAMPLES)
    labels = pq.ParquetFile(folder / LABELS)
    for batch in labels.iter_batches(batch_size=rows):
        part = pa.Table.from_batches([batch], labels.schema_arrow)
        schema.check(part, "soft_labels")
        yield _joined(samples, part, str(folder)), part


def _joined(samples: ds.Dataset, labels: pa.Table, name: str) -> pa.Table:
    ids = labels["sample_id"].combine_chunks()
    # The bounds let the scan skip row groups; both tables are ordered by id, so few are left.
    low, high = pc.min(ids), pc.max(ids)
    found = samples.to_table(filter=(ds.field("sample_id") >= low) & (ds.field("sample_id") <= high))
    place = pc.index_in(ids, found["sample_id"].combine_chunks())
    if place.null_count:
        missing = ids.filter(pc.is_null(place))[0].as_py()
        raise ArtifactMismatch(name, "sample_id", got=f"a label of {missing}", expected=f"a row of {SAMPLES}")
    return found.take(place)


def sizes(path: Path) -> dict[str, float]:
    """Bytes on disk per token of a soft-label file: `label` (logits, ids, weights), `hidden` states, `all` together."""
    data = pq.ParquetFile(path)
    bytes_of: dict[str, int] = {}
    for group in range(data.metadata.num_row_groups):
        for place in range(data.metadata.num_columns):
            column = data.metadata.row_group(group).column(place)
            name = column.path_in_schema.partition(".")[0]
            bytes_of[name] = bytes_of.setdefault(name, 0) + column.total_compressed_size
    tokens = max(1, pc.sum(data.read(["positions"])["positions"]).as_py() or 0)
    label = sum(bytes_of[name] for name in LABEL_COLUMNS if name in bytes_of)
    hidden = sum(bytes_of[name] for name in ("hidden", "hidden_scale") if name in bytes_of)
    return {
        "label": round(label / tokens, 2), "hidden": round(hidden / tokens, 2),
        "all": round(sum(bytes_of.values()) / tokens, 2),
    }  # fmt: skip
