"""What a graph is fed while a student answers real rows: the calls that set the ranges of static INT8.

Rows are answered through the float32 bundle as they will be served, one by one and, where text is written, token by
token; so a decoder's calls include its growing cache.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jobs.data.items import COLUMNS
from jobs.packing.checking import check_items
from jobs.quantize.plan import Feeds
from serving.bundle import predict
from serving.engines import onnxruntime, openvino

ROWS = 512  # of the curated set, spread over it
CALLS = 512  # of one graph that are kept, spread over all it was asked


class Recorder:
    """An engine that keeps what it was fed, until there are enough; then every second call goes, and so on."""

    def __init__(self, engine: onnxruntime.Graph | openvino.Graph) -> None:
        self.engine, self.seen, self.every = engine, 0, 1
        self.calls: list[Feeds] = []

    def __call__(self, feeds: Feeds) -> list[np.ndarray]:
        """See `serving.engines.Engine`."""
        if self.seen % self.every == 0:
            self.calls.append({name: np.array(value) for name, value in feeds.items() if name in self.engine.inputs})
        self.seen += 1
        if len(self.calls) >= 2 * CALLS:
            self.calls, self.every = self.calls[::2], 2 * self.every
        return self.engine(feeds)


def recorded(bundle: Path, items: Sequence[Mapping[str, Any]]) -> dict[str, list[Feeds]]:
    """The calls of each graph (by file stem) of a float32 ONNX bundle while it answers `items`."""
    student = predict.load(bundle)
    stems = [path.stem for path in sorted(bundle.glob("*.onnx"))]
    recorders = {}
    for name, value in list(vars(student).items()):
        if isinstance(value, onnxruntime.Graph | openvino.Graph):
            recorder = Recorder(value)
            setattr(student, name, recorder)
            recorders[name if name in stems else stems[0]] = recorder
    for item in items:
        student.predict([item])
    step = {name: -(-len(one.calls) // CALLS) for name, one in recorders.items()}
    return {name: one.calls[:: max(1, step[name])] for name, one in recorders.items()}


def curated_items(samples: Path, curated: Path) -> list[dict[str, Any]]:
    """Requests of a curated set (folders of the two artifacts), spread over it."""
    verdicts = pq.read_table(curated / "curation.parquet", columns=["sample_id", "kept"])
    kept = verdicts.filter(verdicts["kept"])["sample_id"]
    rows = pq.read_table(samples / "samples.parquet", columns=["sample_id", *COLUMNS])
    return check_items(rows.filter(pc.is_in(rows["sample_id"], value_set=kept.combine_chunks())).to_pylist(), ROWS)
