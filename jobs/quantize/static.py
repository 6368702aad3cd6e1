"""Scheme `static`: INT8 convolutions and linear layers with ranges of activations measured once, on real rows (QDQ).

The one scheme for convolutions: dynamic ranges cost more than they save there (findings: 0.6 of float32's speed in
batches) and block-wise weights are for matrix products alone. A row's answer does not depend on the rows beside it.
Weights are signed with one scale per output channel (a depthwise channel has nine weights of its own size),
activations unsigned: u8s8, the pair of the processor's dot-product instruction.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from jobs.quantize import graph

Feeds = Mapping[str, np.ndarray]


def quantize(source: Path, target: Path, rows: Sequence[Feeds]) -> None:
    """Write the INT8 graph; `rows` are feeds of the graph, one per call, whose activations set the ranges."""
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    with tempfile.TemporaryDirectory() as folder:
        ready = Path(folder) / "folded.onnx"
        graph.folded(source, ready)
        with graph.quiet():
            quantize_static(
                ready, target, _reader(rows), quant_format=QuantFormat.QDQ, per_channel=True,
                activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.MinMax,
            )  # fmt: skip


def _reader(rows: Sequence[Feeds]) -> object:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """Hands on the rows, one feed per call, then None."""

        def __init__(self) -> None:
            self.left: Iterator[Feeds] = iter(rows)

        def get_next(self) -> Feeds | None:
            return next(self.left, None)

    return Reader()
