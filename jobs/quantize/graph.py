"""What both schemes do to a graph around their own work: fold constants before it, shrink embedding tables after it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

PRODUCTS = ("MatMul", "Gemm", "Conv")


def folded(source: Path, aside: Path) -> Any:
    """The graph with constants folded and shapes inferred, as an `onnx.ModelProto`; `aside` is a file to work in."""
    import onnx
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with quiet():
        # Symbolic shape inference gives up on these graphs ("Incomplete symbolic shape inference") and is not needed.
        quant_pre_process(str(source), str(aside), skip_symbolic_shape=True)
    return onnx.load(str(aside))


def layers(model: Any) -> list[str]:
    """Names of the nodes of a folded graph that multiply by a constant weight: what can be quantized, in order."""
    from onnx import TensorProto

    floats = {one.name for one in model.graph.initializer if one.data_type == TensorProto.FLOAT and len(one.dims) > 1}
    return [node.name for node in model.graph.node if node.op_type in PRODUCTS and floats & set(node.input[:2])]


def embedding_rows(model: Any) -> int:
    """Turn every 2-D float table that `Gather` reads into int8 with one float32 scale per row, in place.

    The node becomes Gather(int8 rows), Gather(scales [V, 1]), Cast, Mul: a DequantizeLinear after Gather cannot carry a
    scale per row. The error is a third below that of one scale for the table. Returns the number of tables (count).
    """
    from onnx import TensorProto, helper, numpy_helper

    graph = model.graph
    tables = {one.name: one for one in graph.initializer if one.data_type == TensorProto.FLOAT and len(one.dims) == 2}
    nodes, made = [], set()
    for node in graph.node:
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
        if node.op_type != "Gather" or node.input[0] not in tables or axis != 0:
            nodes.append(node)
            continue
        table, indices, out = node.input[0], node.input[1], node.output[0]
        rows, scales = f"{table}_int8", f"{table}_scale"
        if table not in made:
            made.add(table)
            codes_VH, scales_V1 = row_codes(numpy_helper.to_array(tables[table]))
            graph.initializer.append(numpy_helper.from_array(codes_VH, rows))
            graph.initializer.append(numpy_helper.from_array(scales_V1, scales))
        nodes += [
            helper.make_node("Gather", [rows, indices], [f"{out}_int8"], name=f"{node.name}_rows"),
            helper.make_node("Gather", [scales, indices], [f"{out}_scale"], name=f"{node.name}_scales"),
            helper.make_node("Cast", [f"{out}_int8"], [f"{out}_cast"], name=f"{node.name}_cast", to=TensorProto.FLOAT),
            helper.make_node("Mul", [f"{out}_cast", f"{out}_scale"], [out], name=f"{node.name}_mul"),
        ]
    del graph.node[:]
    graph.node.extend(nodes)
    drop_unread(graph)
    return len(made)


def row_codes(table_VH: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Symmetric int8 codes [V, H] and float32 scales [V, 1] of a table; a row of zeros keeps scale 1."""
    peak_V1 = np.abs(table_VH).max(1, keepdims=True)
    scales_V1 = np.where(peak_V1 > 0, peak_V1 / 127.0, 1.0).astype(np.float32)
    return np.clip(np.round(table_VH / scales_V1), -127, 127).astype(np.int8), scales_V1


def drop_unread(graph: Any) -> None:
    """Remove initializers that no node reads and no output names (the float table behind its int8 rows)."""
    read = {name for node in graph.node for name in node.input} | {one.name for one in graph.output}
    kept = [one for one in graph.initializer if one.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)


@contextmanager
def quiet() -> Iterator[None]:
    """Without the quantizers' chatter on the root logger (advice to do what `folded` has done)."""
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(before)
