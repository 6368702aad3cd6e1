"""What each scheme writes into the file: which weights are INT8, by which scales, and for which engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnxruntime import InferenceSession

from jobs.packing import writing
from jobs.quantize import attention, exact, fast, graph, half, static, symmetric, weights
from jobs.quantize.plan import Plan
from serving.engines import onnxruntime
from serving.models import encoder, tracing

IDS = [np.random.default_rng(row).integers(5, 90, (1, 9)) for row in range(16)]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float32 encoder with a table of 90 rows, two layers and a head."""
    import torch
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("plain")
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 96}
    network = encoder.TextClassifier(BertModel(BertConfig(vocab_size=90, **shape)), classes=7)
    for parameter in network.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    encoder.export(network, folder)
    return folder / "model.onnx"


def logits(path: Path) -> np.ndarray:
    session = onnxruntime.Graph(path.read_bytes(), 1)
    return np.concatenate([session({"input_ids": ids})[0] for ids in IDS])


def error(path: Path, plain: Path) -> float:
    one, other = logits(plain), logits(path)
    return float(np.linalg.norm(one - other) / np.linalg.norm(one))


@pytest.mark.parametrize(
    ("quantize", "most", "share"),
    [(fast.quantize, 0.1, 0.5), (exact.quantize, 0.05, 0.5), (weights.quantize, 0.03, 0.45), (static.quantize, 0.3, 1)],
)
def test_a_scheme_is_smaller_and_near_and_keeps_the_layers_it_is_told_to(
    quantize: Callable[..., None], most: float, share: float, plain: Path, tmp_path: Path
) -> None:
    layers = graph.layers(graph.folded(plain, tmp_path / "folded.onnx"))
    assert len(layers) == 2 * 6 + 1
    rows = {"model": [{"input_ids": ids} for ids in IDS]}
    sizes = {}
    for name, plan in (("all", Plan("")), ("but", Plan("").but([f"model:{own}" for own in layers[:6]]))):
        target = tmp_path / f"{name}.onnx"
        quantize(plain, target, plan.fed(rows))
        sizes[name] = target.stat().st_size
        assert error(target, plain) < most
    none = Plan("", only=(), rows=rows)
    quantize(plain, tmp_path / "none.onnx", none)
    assert error(tmp_path / "none.onnx", plain) < 0.01  # the table alone
    assert sizes["all"] < sizes["but"]
    assert sizes["all"] < share * plain.stat().st_size


def test_weights_have_a_scale_per_output_channel_and_tables_one_per_row(plain: Path, tmp_path: Path) -> None:
    weights.quantize(plain, tmp_path / "weights.onnx", Plan("weights"))
    held = {one.name: numpy_helper.to_array(one) for one in onnx.load(str(tmp_path / "weights.onnx")).graph.initializer}
    codes = {name.removesuffix("_int8"): value for name, value in held.items() if name.endswith("_int8")}
    assert len(codes) == 2 * 6 + 1 + 2  # layers, head, tables of words and places
    for name, value in codes.items():
        assert value.dtype == np.int8
        scales = held[f"{name}_scale"]
        assert scales.size == max(scales.shape)
        assert scales.size > 1
    assert "90" in {str(value.shape[0]) for value in codes.values()}


def test_the_file_for_tensorrt_is_symmetric_on_both_sides_with_a_scale_per_channel(plain: Path, tmp_path: Path) -> None:
    target = tmp_path / "qdq.onnx"
    symmetric.quantize(plain, target, Plan("static", rows={"model": [{"input_ids": ids} for ids in IDS]}))
    model = onnx.load(str(target))
    held = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
    pairs = [node for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert len(pairs) >= 4 * 13
    assert {str(held[node.input[2]].dtype) for node in pairs} == {"int8"}
    assert not any(held[node.input[2]].any() for node in pairs)
    per_axis = [node for node in pairs if held[node.input[1]].size > 1]
    assert len(per_axis) == 2 * 13  # quantize and dequantize of each weight
    assert {node.op_type for node in model.graph.node}.isdisjoint({"MatMulInteger", "DynamicQuantizeLinear"})
    assert error(target, plain) < 0.3


def test_float16_keeps_inputs_and_outputs_and_halves_the_file(plain: Path, tmp_path: Path) -> None:
    target = tmp_path / "half.onnx"
    half.quantize(plain, target, Plan("float16"))
    assert target.stat().st_size < 0.6 * plain.stat().st_size
    assert logits(target).dtype == np.float32
    assert error(target, plain) < 0.01


def test_ranges_without_rows_are_refused(plain: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs calibration rows for graph model"):
        static.quantize(plain, tmp_path / "static.onnx", Plan("static", rows={"model": []}))


def test_the_mobile_form_answers_the_same_and_lists_its_operators(plain: Path, tmp_path: Path) -> None:
    exact.quantize(plain, tmp_path / "model.onnx", Plan("exact"))
    writing.add_mobile(tmp_path)
    assert {path.name for path in (tmp_path / "mobile").iterdir()} == {"model.ort", "required_operators.config"}
    mobile = logits(tmp_path / "mobile" / "model.ort")  # optimized when written, by one step more
    np.testing.assert_allclose(mobile, logits(tmp_path / "model.onnx"), atol=1e-5)
    assert "MatMulNBits" in (tmp_path / "mobile" / "required_operators.config").read_text()


def test_attention_is_one_node_of_the_fast_file_unless_a_layer_of_it_stays_float(plain: Path, tmp_path: Path) -> None:
    model = graph.folded(plain, tmp_path / "folded.onnx")
    nodes, layers = len(model.graph.node), graph.layers(model)
    assert attention.fuse(model) == 2
    onnx.save(model, str(tmp_path / "fused.onnx"))
    assert len(model.graph.node) < 0.6 * nodes
    np.testing.assert_allclose(logits(tmp_path / "fused.onnx"), logits(plain), atol=1e-5)
    assert attention.fuse(model) == 0
    for name, plan, fused in (("all", Plan("fast"), 2), ("but", Plan("fast").but([f"model:{layers[0]}"]), 0)):
        fast.quantize(plain, tmp_path / f"{name}.onnx", plan)
        kinds = [node.op_type for node in onnx.load(str(tmp_path / f"{name}.onnx")).graph.node]
        assert (kinds.count("QAttention"), kinds.count("Softmax")) == (fused, 2 - fused)


def test_a_bundle_is_optimized_as_it_was_when_it_was_exported(plain: Path, tmp_path: Path) -> None:
    fast.quantize(plain, tmp_path / "model.onnx", Plan("fast"))
    data, ids = (tmp_path / "model.onnx").read_bytes(), IDS[0]
    now = onnxruntime.about()
    before = {name: value for name, value in now.items() if name != "without"}  # of earlier versions
    for about, without in ((now, onnxruntime.SLOWER), (before, [])):
        session = InferenceSession(data, providers=[onnxruntime.PROVIDER], disabled_optimizers=[*without])
        (want,) = session.run(None, {"input_ids": ids})
        np.testing.assert_array_equal(onnxruntime.open_graph(data, about, 1)({"input_ids": ids})[0], want)


def test_attention_with_a_mask_is_left_as_it_is(tmp_path: Path) -> None:
    import torch
    from torch import nn

    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))

        def forward(self, states: torch.Tensor) -> torch.Tensor:
            query, key, value = (part(states).view(*states.shape[:-1], -1, 4).transpose(1, 2) for part in self.parts)
            scores = query @ key.transpose(2, 3) * 0.5
            ahead = torch.ones_like(scores).triu(1) * -1e4
            mixed = (scores + ahead).softmax(-1) @ value
            return mixed.transpose(1, 2).reshape(*states.shape[:-1], -1)

    names = {"states": {0: "B", 1: "S"}}, {"mixed": {0: "B", 1: "S"}}
    tracing.write(Masked(), (torch.randn(2, 3, 8),), tmp_path / "masked", names, 17)
    model = graph.folded(tmp_path / "masked.onnx", tmp_path / "folded.onnx")
    assert attention.fuse(model) == 0
