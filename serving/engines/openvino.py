"""OpenVINO on the CPU: reads the same ONNX form; fastest with static INT8 in batches and for small decoders."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np

from serving.bundle.answer import Array

FILE, NEEDS = ".onnx", "openvino"
HINTS = {"float32": "f32", "bfloat16": "bf16"}


def about(precision: str = "float32") -> dict[str, Any]:
    """What pins an answer's bits beside the file; `precision` is of the arithmetic that is not INT8."""
    import openvino

    version = openvino.__version__.partition("-")[0]
    return {"name": "openvino", "version": version, "device": "CPU", "precision": precision}


def open_graph(data: bytes, engine: Mapping[str, Any], threads: int) -> Graph:
    """A graph (an ONNX file's bytes) compiled for latency on `threads` threads."""
    return Graph(data, engine["precision"], threads)


class Graph:
    """One compiled model with one request; results are copied out, as the next call writes into the same memory."""

    def __init__(self, data: bytes, precision: str, threads: int) -> None:
        import openvino

        core = openvino.Core()
        options = {
            "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": HINTS[precision], "ENABLE_CPU_PINNING": False,
        }  # fmt: skip
        self.compiled = core.compile_model(core.read_model(io.BytesIO(data)), "CPU", options)
        self.request = self.compiled.create_infer_request()
        self.inputs = {name for port in self.compiled.inputs for name in port.get_names()}

    def __call__(self, feeds: Mapping[str, Array]) -> list[Array]:
        """See `serving.engines.Engine`."""
        own = {name: np.ascontiguousarray(value) for name, value in feeds.items() if name in self.inputs}
        found = self.request.infer(own, share_inputs=False)
        return [np.array(found[port]) for port in self.compiled.outputs]
