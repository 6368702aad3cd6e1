"""Schemes without INT8: the float32 file itself, or the same graph cast to float16.

TensorRT is strongly typed, so float16 there is a file whose tensors are float16; inputs and outputs stay as they were.
"""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

from jobs.quantize.plan import Plan


def same(source: Path, target: Path, plan: Plan) -> None:
    """The float32 file."""
    shutil.copyfile(source, target)


def quantize(source: Path, target: Path, plan: Plan) -> None:
    """Write the graph with float16 weights and arithmetic, float32 inputs and outputs."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # weights too small for float16 are said one by one
        onnx.save(convert_float_to_float16(onnx.load(str(source)), keep_io_types=True), str(target))
