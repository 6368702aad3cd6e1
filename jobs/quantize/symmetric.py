"""Scheme `static` as TensorRT reads it: signed INT8 on both sides, zero points 0, quantize-dequantize pairs on weights.

TensorRT 11 has no calibrator and no INT8 flag any more: what is INT8 is what the file says. On a CPU this file is 2.5
to 4 times slower than the CPU's own, so it is never served there.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from jobs.quantize import graph, static
from jobs.quantize.plan import Plan

OPTIONS = {
    "ActivationSymmetric": True, "WeightSymmetric": True, "AddQDQPairToWeight": True, "QuantizeBias": False,
    "DedicatedQDQPair": True,
}  # fmt: skip


def quantize(source: Path, target: Path, plan: Plan) -> None:
    """Write the QDQ graph; `plan` holds the calls whose activations set the ranges."""
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    with tempfile.TemporaryDirectory() as folder:
        ready = Path(folder) / "folded.onnx"
        model = graph.folded(source, ready)
        with graph.quiet():
            quantize_static(
                ready, target, static.reader(plan.calls(source.stem)), quant_format=QuantFormat.QDQ, per_channel=True,
                activation_type=QuantType.QInt8, weight_type=QuantType.QInt8,
                op_types_to_quantize=static.kinds(model),
                nodes_to_exclude=static.left_float(model, source.stem, plan),
                calibrate_method=CalibrationMethod.MinMax, extra_options=OPTIONS,
            )  # fmt: skip
