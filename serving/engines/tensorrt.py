"""TensorRT 11 on an NVIDIA GPU. Written after its bindings and documentation, not run: no GPU was at hand.

TensorRT 11 is strongly typed: what is INT8 is a quantize-dequantize pair in the ONNX file (`jobs.quantize.symmetric`),
what is float16 is cast there (`jobs.quantize.half`). A built engine fits one GPU model and TensorRT version alone.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any

import numpy as np

from serving.bundle.answer import Array
from serving.engines import cuda_memory

FILE, NEEDS = ".plan", "tensorrt"
WORKSPACE_BYTES = 1 << 30
LEVEL = 3  # builder_optimization_level, TensorRT's own default; 5 searches longest


def missing() -> str | None:
    """Why no engine can be built or run here; None where one can."""
    if importlib.util.find_spec(NEEDS) is None:
        return "tensorrt is not installed (pip install '.[gpu]', its libraries come from NVIDIA's own index)"
    return cuda_memory.missing()


def about() -> dict[str, Any]:
    """What pins an answer's bits beside the file."""
    import tensorrt as trt

    return {"name": "tensorrt", "version": trt.__version__, "device": "CUDA"}


def build(onnx: bytes, batch_max: int, tokens_max: int, timings: bytes = b"") -> tuple[bytes, bytes]:
    """The engine of an ONNX file, and the timing cache to give the next build (which then need not measure again).

    Free axes get a profile: the first is rows, from 1 to `batch_max`, best for 1; any other is tokens, from 1 to
    `tokens_max`. Raises ValueError with TensorRT's own words when it cannot read or build the graph.
    """
    import tensorrt as trt

    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    network = builder.create_network(0)  # always strongly typed: the flag of that name is ignored since 11
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(onnx):
        raise ValueError("; ".join(str(parser.get_error(number)) for number in range(parser.num_errors)))
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE_BYTES)
    config.builder_optimization_level = LEVEL
    cache = config.create_timing_cache(timings)
    config.set_timing_cache(cache, ignore_mismatch=False)
    profile = builder.create_optimization_profile()
    for number in range(network.num_inputs):
        tensor = network.get_input(number)
        profile.set_shape(tensor.name, *shapes(tuple(tensor.shape), batch_max, tokens_max))
    if config.add_optimization_profile(profile) < 0:
        raise ValueError("the range of shapes does not fit the graph's inputs")
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise ValueError("TensorRT cannot build this graph; its log says why")
    return bytes(plan), bytes(config.get_timing_cache().serialize())


def shapes(axes: tuple[int, ...], batch_max: int, tokens_max: int) -> tuple[tuple[int, ...], ...]:
    """Smallest, usual and largest shape of an input whose free axes are -1."""
    most = [batch_max if place == 0 else tokens_max for place in range(len(axes))]
    usual = [1 if place == 0 else min(tokens_max, 32) for place in range(len(axes))]
    return tuple(
        tuple(free if size < 0 else size for size, free in zip(axes, choice, strict=True))
        for choice in ([1] * len(axes), usual, most)
    )


def open_graph(data: bytes, engine: Mapping[str, Any], threads: int) -> Graph:
    """A built engine's bytes, ready to answer; `threads` has no meaning on a GPU."""
    return Graph(data)


class Graph:
    """One engine with one execution context and its own memory on the GPU."""

    def __init__(self, data: bytes) -> None:
        """Raises ValueError for an engine of another GPU or version, CudaError or OSError where there is no driver."""
        import tensorrt as trt

        self.memory, self.logger = cuda_memory.Memory(), trt.Logger(trt.Logger.WARNING)
        self.runtime = trt.Runtime(self.logger)
        self.engine = self.runtime.deserialize_cuda_engine(data)
        if self.engine is None:
            raise ValueError("the engine was built for another GPU or TensorRT version")
        self.context = self.engine.create_execution_context()
        names = [self.engine.get_tensor_name(number) for number in range(self.engine.num_io_tensors)]
        read = {name: self.engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT for name in names}
        self.inputs = [name for name in names if read[name]]
        self.outputs = [name for name in names if not read[name]]
        self.kinds = {name: trt.nptype(self.engine.get_tensor_dtype(name)) for name in names}

    def __call__(self, feeds: Mapping[str, Array]) -> list[Array]:
        """See `serving.engines.Engine`. Raises ValueError for shapes outside the profile."""
        self.memory.enter()
        held = {name: np.ascontiguousarray(feeds[name], self.kinds[name]) for name in self.inputs}
        for name, values in held.items():
            if not self.context.set_input_shape(name, values.shape):
                raise ValueError(f"{name}: shape {values.shape} is outside what the engine was built for")
            self.context.set_tensor_address(name, self.memory.put(name, values))
        sizes = {name: tuple(self.context.get_tensor_shape(name)) for name in self.outputs}
        for name, shape in sizes.items():
            size = int(np.prod(shape)) * np.dtype(self.kinds[name]).itemsize
            self.context.set_tensor_address(name, self.memory.room(name, size))
        if not self.context.execute_async_v3(self.memory.stream.value):
            raise ValueError("TensorRT did not run the graph; its log says why")
        return [self.memory.get(name, sizes[name], self.kinds[name]) for name in self.outputs]
