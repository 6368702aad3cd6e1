"""Scheme `static` as TensorRT reads it: signed INT8 on both sides, zero points 0, quantize-dequantize pairs on weights.

TensorRT 11 has no calibrator and no INT8 flag any more: what is INT8 is what the file says. On a CPU this file is 2.5
to 4 times slower than the CPU's own, so it is never served there.
"""

from __future__ import annotations

from pathlib import Path

from jobs.quantize import static
from jobs.quantize.plan import Plan

OPTIONS = {
    "ActivationSymmetric": True, "WeightSymmetric": True, "AddQDQPairToWeight": True, "QuantizeBias": False,
    "DedicatedQDQPair": True,
}  # fmt: skip


def quantize(source: Path, target: Path, plan: Plan) -> None:
    """Write the QDQ graph; `plan` holds the calls whose activations set the ranges."""
    static.write(source, target, plan, signed=True, options=OPTIONS)
