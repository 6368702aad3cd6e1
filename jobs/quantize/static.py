"""Scheme `static`: INT8 convolutions and linear layers with ranges of activations measured once, on real rows (QDQ).

The one scheme for convolutions: dynamic ranges cost more than they save there (findings: 0.6 of float32's speed in
batches) and block-wise weights are for matrix products alone. A row's answer does not depend on the rows beside it.
Weights are signed with one scale per output channel (a depthwise channel has nine weights of its own size),
activations unsigned: u8s8, the pair of the processor's dot-product instruction. Of transformers only the products with
weights are quantized: ranges of attention scores and softmax are what costs accuracy.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jobs.quantize import graph
from jobs.quantize.plan import Feeds, Plan

KINDS = ("MatMul", "Gemm")


def quantize(source: Path, target: Path, plan: Plan) -> None:
    """Write the INT8 graph; `plan` holds the calls whose activations set the ranges."""
    import onnx

    write(source, target, plan, signed=False, options={})
    coded = onnx.load(str(target))
    if graph.embedding_rows(coded):
        onnx.save(coded, str(target))


def write(source: Path, target: Path, plan: Plan, *, signed: bool, options: Mapping[str, bool]) -> None:
    """Write a graph with quantize-dequantize pairs: weights signed with one scale per output channel, activations
    `signed` or not, and the quantizer's further `options`."""
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    with tempfile.TemporaryDirectory() as folder:
        ready = Path(folder) / "folded.onnx"
        model = graph.folded(source, ready)
        with graph.quiet():
            quantize_static(
                ready, target, reader(plan.calls(source.stem)), quant_format=QuantFormat.QDQ, per_channel=True,
                activation_type=QuantType.QInt8 if signed else QuantType.QUInt8, weight_type=QuantType.QInt8,
                op_types_to_quantize=kinds(model), nodes_to_exclude=left_float(model, source.stem, plan),
                calibrate_method=CalibrationMethod.MinMax, extra_options=dict(options),
            )  # fmt: skip


def kinds(model: Any) -> list[str] | None:
    """Operators to quantize: every one that can be around convolutions (null), else products with weights."""
    return None if convolutional(model) else [*KINDS]


def left_float(model: Any, stem: str, plan: Plan) -> list[str]:
    """Nodes that stay float: those of the plan, and of a transformer every product of two activations (the quantizer's
    own option for that, MatMulConstBOnly, is not read when it writes QDQ)."""
    layers = graph.layers(model)
    own = plan.kept_float(stem, layers)
    if convolutional(model):
        return own
    return [*own, *(node.name for node in model.graph.node if node.op_type in KINDS and node.name not in layers)]


def convolutional(model: Any) -> bool:
    """Whether a graph is a convolutional net (a transformer's first layer may be a convolution too)."""
    found = {node.op_type for node in model.graph.node}
    return "Conv" in found and "Softmax" not in found


def reader(rows: Sequence[Feeds]) -> object:
    """The calls as the quantizer asks for them: one feed a time, then None."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """Hands on the rows, one feed per call, then None."""

        def __init__(self) -> None:
            self.left: Iterator[Feeds] = iter(rows)

        def get_next(self) -> Feeds | None:
            return next(self.left, None)

    return Reader()
