"""ONNX Runtime on the CPU: the engine that every task and network is exported for first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from serving.bundle.answer import Array

FILE, NEEDS = ".onnx", "onnxruntime"
PROVIDER = "CPUExecutionProvider"
# Its kernel takes 17 us for 16 x 128 values where sum and normalization take 7: a sixth of a small INT8 encoder's time.
SLOWER = ("SkipLayerNormFusion",)


def about() -> dict[str, Any]:
    """What pins an answer's bits beside the file: another version, provider or optimization computes others."""
    import onnxruntime

    return {
        "name": "onnxruntime", "version": onnxruntime.__version__, "provider": PROVIDER, "graph_optimization": "all",
        "without": list(SLOWER),
    }  # fmt: skip


def open_graph(data: bytes, engine: Mapping[str, Any], threads: int) -> Graph:
    """A graph (an ONNX or ORT-format file's bytes) that runs on `threads` threads inside one operator, optimized as
    `engine` (see `about`) says; bundles from before there was a choice name no step to leave out."""
    return Graph(data, threads, engine.get("without", []))


class Graph:
    """One session `without` these optimizers. Raises what ONNX Runtime raises for bytes that are no graph."""

    def __init__(self, data: bytes, threads: int, without: Sequence[str] = SLOWER) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 4  # what it would print as an error it raises too
        self.session = ort.InferenceSession(data, options, providers=[PROVIDER], disabled_optimizers=[*without])
        self.inputs = {node.name for node in self.session.get_inputs()}

    def __call__(self, feeds: Mapping[str, Array]) -> list[Array]:
        """See `serving.engines.Engine`."""
        return list(self.session.run(None, {name: value for name, value in feeds.items() if name in self.inputs}))
