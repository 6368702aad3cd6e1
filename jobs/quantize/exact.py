"""Scheme `exact`: 8-bit weights in blocks (`MatMulNBits`), activations row by row: the same bits in any batch."""

from __future__ import annotations

import tempfile
from pathlib import Path

from jobs.quantize import graph
from jobs.quantize.plan import Plan

INT8_ARITHMETIC = 4  # accuracy_level; 1 (float arithmetic) is four times slower than float32 at batch 1


def quantize(source: Path, target: Path, plan: Plan) -> None:
    """Write the INT8 graph with one scale per block of weights (32 or 64: 128 is not the same across batches)."""
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
    from onnxruntime.quantization.onnx_model import ONNXModel

    with tempfile.TemporaryDirectory() as folder:
        model = graph.folded(source, Path(folder) / "folded.onnx")
    left = plan.kept_float(source.stem, graph.layers(model))
    # Linear layers on 2-D inputs were exported as Gemm, which the block quantizer leaves in float.
    plain = ONNXModel(model)
    plain.replace_gemm_with_matmul()
    with graph.quiet():
        quantizer = MatMulNBitsQuantizer(
            plain.model, bits=8, block_size=plan.block_size, is_symmetric=True, accuracy_level=INT8_ARITHMETIC,
            nodes_to_exclude=left,
        )  # fmt: skip
        quantizer.process()
    quantized = quantizer.model.model
    graph.embedding_rows(quantized)
    onnx.save(quantized, str(target))
