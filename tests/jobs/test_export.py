"""Export agrees with torch, INT8 stays close, `exact` answers the same bits in any batch, and the bundle says so."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from cluster.errors import StepFailed
from cluster.recipe import Recipe
from cluster.store import Artifact, Store
from jobs import tasks
from jobs.data.items import COLUMNS
from jobs.packing import checking, writing
from jobs.quantize import exact, graph
from jobs.quantize.invariance import batch_invariant
from jobs.quantize.plan import Plan
from serving.bundle import pictures, predict
from serving.models import tracing


@pytest.fixture
def items(exported: tuple[Recipe, Store, Artifact]) -> list[dict[str, Any]]:
    """Questions of the validation split as `predict` takes them."""
    recipe, _, _ = exported
    return checking.check_items(tasks.of(recipe).requests("validation").select([*COLUMNS]).to_pylist(), 48)


@pytest.mark.parametrize("rows", [1, 3])
def test_graphs_agree_with_torch_at_prefill_and_three_steps(
    exported: tuple[Recipe, Store, Artifact], rows: int
) -> None:
    import torch
    from transformers import DynamicCache

    from serving.models import omni

    _, store, artifact = exported
    model: Any = omni.load(store.get("student", artifact.manifest.parents["student"]).path() / "hf")
    student = predict.load(artifact.path() / "float32")
    assert isinstance(student, pictures.VisualAnswerer)
    picture, spec, rng = student.media.picture, student.spec, np.random.default_rng(rows)
    block = [spec["tokens"]["vision_start"], *[spec["tokens"]["image"]] * picture.tokens, spec["tokens"]["vision_end"]]
    ids = np.array([[*block, *block, *rng.integers(10, 30, 5)] for _ in range(rows)])
    width = picture.channels * picture.temporal * picture.patch**2
    pixels = rng.uniform(-1, 1, (2 * rows, picture.grid**2, width)).astype(np.float32)
    index, positions = pictures.placement(ids, spec["tokens"], picture)
    with torch.no_grad():
        visual = omni.features(model, {"pixels": torch.from_numpy(pixels)})
    (features,) = student.vision({"pixels": pixels})
    np.testing.assert_allclose(features.reshape(visual[1:].shape), visual[1:].numpy(), atol=1e-4)
    cache = DynamicCache(config=model.config.text_config)
    past = [np.zeros((rows, spec["kv_heads"], 0, spec["head_dim"]), np.float32)] * (2 * spec["layers"])
    for _ in range(4):
        given = [torch.from_numpy(value) for value in (ids, positions, index)]
        with torch.no_grad():
            expected = model.lm_head(omni.hidden_states(model, *given, visual, cache)[:, -1]).numpy()
        feeds = {"input_ids": ids, "position_ids": positions, "visual_index": index, "visual": visual.numpy()}
        logits, *past = student.decoder(feeds | {f"past_{i}": value for i, value in enumerate(past)})
        np.testing.assert_allclose(logits, expected, atol=1e-4)
        ids = expected.argmax(-1)[:, None]
        index, positions = np.zeros_like(ids), positions[:, :, -1:] + 1


def test_export_leaves_the_model_as_it_was(exported: tuple[Recipe, Store, Artifact], tmp_path: Path) -> None:
    from serving.models import omni, omni_export

    recipe, _, _ = exported
    task = tasks.of(recipe)
    model: Any = task.build(recipe.student, 0)
    before = model.get_experts_implementation(), model.training
    omni_export.export(model, tmp_path, task.source.media)  # type: ignore[attr-defined]
    assert (model.get_experts_implementation(), model.training) == before
    assert omni.kv_bytes_per_token(model) == 2 * 2 * 2 * 32 * 4


def test_the_bundle_says_what_it_is(exported: tuple[Recipe, Store, Artifact]) -> None:
    _, _, artifact = exported
    spec = json.loads((artifact.path() / "bundle.json").read_text())
    assert (spec["scheme"], spec["batch_invariant"], spec["threads"]) == ("exact", True, 1)
    assert (spec["layers"], spec["kv_heads"], spec["hidden_size"]) == (2, 2, 32)
    graphs = {"vision.onnx", "decoder.onnx", "tokenizer.json"}
    assert set(spec["files"]) == {*graphs, "golden.json", *writing.code()}
    facts = artifact.manifest.facts
    assert facts["bytes"] < 0.6 * facts["bytes_float32"]
    assert max(facts["logit_difference"].values()) < 1e-4
    for name in ("float32", "teacher"):
        predict.load(artifact.path() / name)


def test_a_graph_that_computes_something_else_is_refused(
    exported: tuple[Recipe, Store, Artifact], items: list[dict[str, Any]]
) -> None:
    _, store, artifact = exported
    other = store.get("teacher", artifact.manifest.parents["teacher"]).path() / "hf"
    with pytest.raises(StepFailed, match="differ from torch"):
        checking.difference(other, artifact.path() / "float32", items)


@pytest.fixture
def quantized(exported: tuple[Recipe, Store, Artifact], tmp_path: Path) -> Callable[[str], Path]:
    """The student's bundle under another scheme."""
    recipe, _, artifact = exported

    def make(scheme: str) -> Path:
        plain = artifact.path() / "float32"
        fields = writing.student(plain, tmp_path, recipe, Plan(scheme))
        writing.describe(tmp_path, predict.verify(plain) | fields, recipe)
        return tmp_path

    return make


@pytest.mark.parametrize("scheme", ["fast", "exact", "weights"])
def test_int8_stays_close_to_float32(
    scheme: str, quantized: Callable[[str], Path], exported: tuple[Recipe, Store, Artifact], items: list[dict[str, Any]]
) -> None:
    plain = predict.load(exported[2].path() / "float32").logits(items)
    coded = predict.load(quantized(scheme)).logits(items)
    error = np.mean([np.abs(a[0] - b[0]).mean() / np.abs(a[0]).mean() for a, b in zip(plain, coded, strict=True)])
    assert error < 0.15  # random weights are a worst case: there is no answer to be sure of


@pytest.mark.parametrize("scheme", ["fast", "exact", "weights"])
def test_every_matrix_of_a_graph_is_quantized(scheme: str, quantized: Callable[[str], Path]) -> None:
    model = onnx.load(quantized(scheme) / "decoder.onnx")
    floats = {
        one.name for one in model.graph.initializer if one.data_type == TensorProto.FLOAT and one.dims[-1:] != [1]
    }
    products = [node for node in model.graph.node if node.op_type in ("MatMul", "Gemm", "Gather")]
    assert [node.name for node in products if floats & set(node.input)] == []


def test_exact_is_batch_invariant_bit_for_bit_and_fast_is_not(
    quantized: Callable[[str], Path], exported: tuple[Recipe, Store, Artifact], items: list[dict[str, Any]]
) -> None:
    assert batch_invariant(predict.load(exported[2].path()), items)
    assert not batch_invariant(predict.load(quantized("fast")), items)


def test_an_exact_classifier_answers_the_same_bits_alone_and_in_a_batch(tmp_path: Path) -> None:
    from transformers import BertConfig, BertModel

    from serving.models import encoder

    shape = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    encoder.export(encoder.TextClassifier(BertModel(BertConfig(vocab_size=50, **shape)), classes=7), tmp_path)
    exact.quantize(tmp_path / "model.onnx", tmp_path / "exact.onnx", Plan("exact"))
    ids, coded = np.random.default_rng(0).integers(0, 50, (9, 11)), tracing.opened(tmp_path, "exact", 17)
    (together,) = coded({"input_ids": ids})
    for row, one in enumerate(ids):
        np.testing.assert_array_equal(coded({"input_ids": one[None]})[0][0], together[row])


def test_a_table_by_rows_reads_as_the_table_within_half_a_step(tmp_path: Path) -> None:
    table = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)
    table[3] = 0
    node = helper.make_node("Gather", ["table", "ids"], ["rows"], name="lookup")
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["N"])
    rows = helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["N", 5])
    whole = helper.make_graph([node], "lookup", [ids], [rows], [numpy_helper.from_array(table, "table")])
    model = helper.make_model(whole, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert graph.embedding_rows(model) == 1
    assert "table" not in {one.name for one in model.graph.initializer}
    onnx.save(model, str(tmp_path / "rows.onnx"))
    (read,) = tracing.opened(tmp_path, "rows", 17)({"ids": np.arange(7)})
    step = np.abs(table).max(1, keepdims=True) / 127
    assert (np.abs(read - table) <= step / 2 + 1e-7).all()
    assert not read[3].any()
