"""Operations and memory of graphs whose sizes are known by hand."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from jobs.measure import graph_cost


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Path]:
    """Write a graph of nodes over input x and weights; the last node's output is the graph's."""

    def write(nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray], rank: int) -> Path:
        shape = [f"d{axis}" for axis in range(rank)]
        graph = helper.make_graph(
            nodes, "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)],
            [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
        )  # fmt: skip
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        onnx.save(model, str(tmp_path / "g.onnx"))
        return tmp_path / "g.onnx"

    return write


def test_a_chain_of_products_counts_two_per_multiplication_at_the_size_that_was_run(
    written: Callable[..., Path],
) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="first"),
        helper.make_node("Relu", ["h"], ["r"], name="relu"),
        helper.make_node("Gemm", ["r", "v"], ["y"], name="second", transB=1),
    ]
    path = written(nodes, {"w": np.ones((8, 32)), "v": np.ones((5, 32))}, 2)
    feeds = [{"x": np.ones((rows, 8), np.float32)} for rows in (3, 10)]
    assert graph_cost.flops({path: feeds}) == 2 * 13 * (8 * 32 + 32 * 5)


def test_a_grouped_convolution_counts_its_own_channels_alone(written: Callable[..., Path]) -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], name="conv", group=4, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    path = written([node], {"w": np.ones((8, 1, 3, 3))}, 4)
    assert graph_cost.flops({path: [{"x": np.ones((1, 4, 6, 6), np.float32)}]}) == 2 * (8 * 6 * 6) * 9


def test_peak_memory_is_what_lives_at_once_and_not_the_sum(written: Callable[..., Path]) -> None:
    # Each MatMul hands on 100 x 1000 floats; only two of the chain live at the same time.
    nodes = [
        helper.make_node("MatMul", ["x" if n == 0 else f"h{n}", "w"], [f"h{n + 1}"], name=f"n{n}") for n in range(6)
    ]
    path = written(nodes, {"w": np.zeros((1000, 1000))}, 2)
    one = 100 * 1000 * 4
    found = graph_cost.activation_bytes({path: [{"x": np.ones((100, 1000), np.float32)}]})
    assert 2 * one <= found <= 4 * one
