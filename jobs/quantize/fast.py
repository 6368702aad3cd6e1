"""Scheme `fast`: dynamic INT8 of every MatMul, Gemm and fused attention, one scale per batch for activations.

The fastest file on a CPU, but a row's answer depends on the rows beside it (findings: 0 of 256 rows equal in bits).
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from jobs.quantize import attention, graph
from jobs.quantize.plan import Plan

KINDS = ["MatMul", "Gemm", "Attention"]


def quantize(source: Path, target: Path, plan: Plan) -> None:
    """Write the INT8 graph: weights have one scale per output channel."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as folder:
        ready = Path(folder) / "folded.onnx"
        whole = graph.folded(source, ready)
        left = plan.kept_float(source.stem, graph.layers(whole))
        if not left and attention.fuse(whole):  # its three products are quantized together or not at all
            onnx.save(whole, str(ready))
        with graph.quiet():
            quantize_dynamic(ready, target, KINDS, per_channel=True, weight_type=QuantType.QInt8, nodes_to_exclude=left)
    model = onnx.load(str(target))
    graph.embedding_rows(model)
    onnx.save(model, str(target))
