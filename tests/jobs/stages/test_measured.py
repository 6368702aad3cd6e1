"""What distill packs beside the task's columns, for stages that choose rows: the teacher's confidence, difficulty."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cluster import schema
from cluster.store import Store
from jobs.distill import measured


def test_confidence_and_difficulty_are_matched_by_id_and_unknown_rows_count_as_hardest(store: Store) -> None:
    rows = [
        {"sample_id": "b", "kept": True, "confidence": 0.9, "entropy": 0.1, "margin": 0.8, "difficulty": 0.0},
        {"sample_id": "a", "kept": True, "confidence": 0.6, "entropy": 0.5, "margin": 0.2, "difficulty": 1.0},
        {"sample_id": "c", "kept": False, "confidence": None, "entropy": None, "margin": None, "difficulty": None},
    ]
    with store.draft("curated", "0" * 16, section={}, parents={}, step_version=1) as draft:
        table = schema.conform(pa.Table.from_pylist(rows, schema.schema("curation")), "curation")
        pq.write_table(table, draft.path / "curation.parquet")
    found = measured(pa.table({"sample_id": ["a", "c", "b"]}), draft.artifact)
    np.testing.assert_allclose(found["confidence"], [0.6, 0.0, 0.9], rtol=1e-6)
    np.testing.assert_allclose(found["difficulty"], [1.0, 1.0, 0.0])
