"""Schemes that turn an exported float32 ONNX graph into the file of an engine, by engine and by the name that
`export.scheme` gives."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from jobs.quantize import exact, fast, half, static, symmetric, weights
from jobs.quantize.plan import Plan

Quantizer = Callable[[Path, Path, Plan], None]  # float32 graph, graph to write, how

# bfloat16 and float32 are the float32 file; the engine's own precision does the rest.
ENGINES: Mapping[str, Mapping[str, Quantizer]] = {
    "onnxruntime": {
        "fast": fast.quantize, "exact": exact.quantize, "static": static.quantize, "weights": weights.quantize,
        "float32": half.same,
    },
    "openvino": {
        "static": static.quantize, "weights": weights.quantize, "bfloat16": half.same, "float32": half.same,
    },
    "torch": {"bfloat16": half.same, "float32": half.same},
    "tensorrt": {"static": symmetric.quantize, "float16": half.quantize, "float32": half.same},
}  # fmt: skip
CALIBRATED = ("static",)  # schemes that need rows
INT8 = ("fast", "exact", "static", "weights")
NAMES = sorted({name for schemes in ENGINES.values() for name in schemes})


def in_order(engine: str, task: str, block_size: int) -> Sequence[Plan]:
    """What `export.scheme: auto` tries, smallest and fastest first (findings: the scheme is the strong lever). The
    float32 file is not among them: it is where the walk ends when nothing holds."""
    if engine == "onnxruntime" and task == "image_classification":
        return [Plan("static"), Plan("weights")]  # dynamic ranges make convolutions slower than float32
    if engine == "onnxruntime":
        return [Plan("fast"), Plan("exact", 64), Plan("exact", 32), Plan("weights")]
    others = {"openvino": ["static", "weights"], "torch": ["bfloat16"], "tensorrt": ["static", "float16"]}
    return [Plan(name, block_size) for name in others[engine]]
