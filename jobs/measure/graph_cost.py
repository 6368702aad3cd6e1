"""What answering costs inside a bundle's graphs: multiplications and additions, and the memory of what flows between.

Both come from ONNX Runtime's own profile of real requests, so a decoder counts every token that it writes.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Feeds = Mapping[str, np.ndarray]
MAIN = "graph"  # what an answerer calls the graph of `model.onnx`; others carry their file's name


class Recorder:
    """Stands in for a graph of an answerer and keeps what it is fed."""

    def __init__(self, graph: Any) -> None:
        self.graph, self.calls = graph, []  # type: ignore[var-annotated]

    def __call__(self, feeds: Feeds) -> list[np.ndarray]:
        """The graph's own outputs."""
        self.calls.append(dict(feeds))
        return list(self.graph(feeds))


def fed(engine: Any, folder: Path, items: Sequence[Mapping[str, Any]]) -> dict[Path, list[Feeds]]:
    """ONNX file -> what every call of it is fed while the engine answers `items` one by one."""
    places = {path: MAIN if path.stem == "model" else path.stem for path in sorted(folder.glob("*.onnx"))}
    held = {path: getattr(engine, name) for path, name in places.items() if hasattr(engine, name)}
    recorders = {path: Recorder(graph) for path, graph in held.items()}
    try:
        for path, recorder in recorders.items():
            setattr(engine, places[path], recorder)
        for item in items:
            engine.predict([item])
    finally:
        for path, graph in held.items():
            setattr(engine, places[path], graph)
    return {path: recorder.calls for path, recorder in recorders.items()}


def flops(calls: Mapping[Path, Sequence[Feeds]]) -> float:
    """Floating point operations of all these calls: 2 per multiplication and addition of matrix products and
    convolutions, as the float32 graph has them (count). Of a quantized graph, ask its float32 one."""
    import onnx

    total = 0.0
    for path, fed_to in calls.items():
        nodes = {node.name: node for node in onnx.load(str(path), load_external_data=False).graph.node}
        for event in _profile(path, fed_to, optimized=False):
            name = event["name"].removesuffix("_kernel_time")
            total += _operations(event["args"], nodes[name]) if name in nodes else 0.0
    return total


def activation_bytes(calls: Mapping[Path, Sequence[Feeds]]) -> int:
    """Most memory that one call of any of the graphs holds beside its weights: what nodes hand on and the workspace of
    kernels, with the inputs (bytes). As the graph is served: optimized, nothing planned ahead."""
    most = 0
    for path, fed_to in calls.items():
        held = [_in_use(event["args"]) for event in _profile(path, fed_to, optimized=True)]
        inputs = max(sum(value.nbytes for value in feeds.values()) for feeds in fed_to)
        most = max(most, inputs + max(peak for _, peak in held) - held[0][0])
    return most


def _in_use(args: Mapping[str, str]) -> tuple[int, int]:
    """Bytes asked of the allocator before a node and after it."""
    after = int(args["mem_bytes_requested_in_use"])
    return after - int(args["mem_requested_in_use_delta"]), after


def _profile(path: Path, calls: Sequence[Feeds], optimized: bool) -> Iterator[dict[str, Any]]:
    """One event per node that was run, in order."""
    import onnxruntime as ort

    level = ort.GraphOptimizationLevel
    options = ort.SessionOptions()
    options.enable_profiling, options.enable_mem_pattern, options.log_severity_level = True, False, 3
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimized else level.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        read = {node.name for node in session.get_inputs()}
        for feeds in calls:
            session.run(None, {name: value for name, value in feeds.items() if name in read})
        events = json.loads(Path(session.end_profiling()).read_text())
    ran = [event for event in events if event["cat"] == "Node" and event["name"].endswith("_kernel_time")]
    yield from sorted(ran, key=lambda event: event["ts"])


def _operations(args: Mapping[str, Any], node: Any) -> float:
    """2 per multiplication and addition of one node; 0 for a kind that has none. Shapes of weights are not in a
    profile, so the length of the sums is read from what flows in."""
    if node.op_type not in ("MatMul", "Gemm", "Conv"):
        return 0.0
    shapes = [next(iter(one.values())) for one in args["input_type_shape"]]
    (out,) = (next(iter(one.values())) for one in args["output_type_shape"])
    attributes = {attribute.name: attribute for attribute in node.attribute}
    if node.op_type == "Conv":
        kernel, group = attributes["kernel_shape"].ints, attributes["group"].i if "group" in attributes else 1
        inner = int(shapes[0][1]) // group * math.prod(kernel)
    else:
        flipped = "transA" in attributes and attributes["transA"].i
        inner = int(shapes[0][-2 if flipped else -1])
    return float(2 * math.prod(out) * inner)
