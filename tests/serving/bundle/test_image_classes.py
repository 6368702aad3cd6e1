"""Picture classifiers from weights to answers: the exported graph, INT8, and the bundle's own command line."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from cluster.recipe import Recipe, load
from jobs import export
from jobs.packing import writing
from jobs.quantize.invariance import batch_invariant
from jobs.quantize.plan import Plan
from serving.bundle import predict
from serving.bundle.answer import BundleError
from serving.bundle.image_classes import Frame, blank, read, values
from serving.models import image_nets
from serving.students.student import Student

FRAME = Frame(12, 1)
LABELS = ["ant", "bee", "cow"]
SIZES = {"resnet": {"stem": 8, "widths": [12, 16], "depths": [1, 2]},
         "separable": {"stem": 8, "widths": [12, 16], "strides": [1, 2]}}  # fmt: skip


def trained(architecture: str) -> image_nets.ImageClassifier:
    """A network whose running means are not the ones it began with, and whose answers differ."""
    model = image_nets.build(architecture, SIZES[architecture], FRAME, len(LABELS), 0)
    pixels = torch.rand((64, 1, 12, 12), generator=torch.Generator().manual_seed(1)) * 2 - 1
    model.train()
    with torch.no_grad():
        for _ in range(3):
            model(pixels)
        model.head.weight.mul_(8)
    return model.eval()


def pictures(count: int) -> list[bytes]:
    """Noise as PNG files."""
    from jobs.data.augment import encoded

    rng = np.random.default_rng(2)
    return [encoded(rng.integers(0, 256, (12, 12), dtype=np.uint8)) for _ in range(count)]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The INT8 bundle of a student that was never trained, with `float32/` below it."""
    root = tmp_path_factory.mktemp("bundle")
    model = trained("separable")
    image_nets.save(model, root / "hf")
    spec = {"task": "image_classification", "labels": LABELS, "picture": {"size": 12, "channels": 1}, "max_images": 1}
    (root / "hf" / "task.json").write_text(json.dumps(spec))
    recipe: Recipe = load("image_classification")
    described = export.plain(root / "hf", root / "float32", recipe)
    shutil.rmtree(root / "hf")  # a bundle holds nothing else
    feeds = [{"pixels": values(read(image, FRAME)[None])} for image in pictures(64)]
    fields = writing.student(root / "float32", root, recipe, Plan("static", rows={"model": feeds}))
    writing.describe(root, described | fields, recipe)
    return root


@pytest.mark.parametrize("architecture", SIZES)
def test_the_graph_answers_as_torch_does_with_batch_normalisation_folded_away(
    architecture: str, tmp_path: Path
) -> None:
    model = trained(architecture)
    assert image_nets.export(model, tmp_path) < 1e-5
    kinds = {node.op_type for node in onnx.load(str(tmp_path / "model.onnx")).graph.node}
    assert "Conv" in kinds
    assert "BatchNormalization" not in kinds
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize("architecture", SIZES)
def test_the_defaults_are_a_teacher_of_a_million_and_a_student_of_eighty_six_thousand(architecture: str) -> None:
    model = image_nets.build(architecture, {}, Frame(28, 1), 10, 0)
    count = sum(value.numel() for value in model.parameters())
    low, high = {"resnet": (1_200_000, 1_250_000), "separable": (60_000, 86_000)}[architecture]
    assert low < count <= high
    logits_BV, pooled_BF = model(torch.zeros(2, 1, 28, 28))
    assert (logits_BV.shape, pooled_BF.shape[0]) == ((2, 10), 2)


def test_int8_keeps_the_answers_and_a_row_does_not_depend_on_the_rows_beside_it(bundle: Path) -> None:
    items = [{"images": [image]} for image in pictures(128)]
    quantized, plain = predict.load(bundle), predict.load(bundle / "float32")
    same = [a.text == b.text for a, b in zip(quantized.predict(items), plain.predict(items), strict=True)]
    assert np.mean(same) > 0.9
    assert batch_invariant(quantized, items[:40])
    kinds = {node.op_type for node in onnx.load(str(bundle / "model.onnx")).graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds


def test_the_bundle_answers_by_itself_from_a_picture_file_alone(bundle: Path, tmp_path: Path) -> None:
    (image,) = pictures(1)
    (tmp_path / "one.png").write_bytes(image)
    command = [sys.executable, str(bundle / "predict.py"), "--image", str(tmp_path / "one.png")]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    answer = json.loads(said.stdout)
    (here,) = predict.load(bundle).predict([{"images": [image]}])
    assert (answer["text"], answer["confidence"]) == (here.text, here.confidence)
    assert list(answer["probabilities"]) == LABELS
    assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    refused = subprocess.run(command[:2], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (refused.returncode, "images: got 0, expected 1" in refused.stderr) == (2, True)


def test_a_request_of_no_picture_two_or_something_else_is_refused(bundle: Path) -> None:
    student = predict.load(bundle)
    for item in ({"text": "a cat"}, {"images": pictures(2)}, {"images": [b"no picture"]}):
        with pytest.raises(BundleError, match="image"):
            student.predict([item])


def test_the_gateways_student_warms_up_on_a_black_picture(bundle: Path) -> None:
    student = Student(bundle)
    assert student.reads.images_max == 1
    assert read(blank(FRAME), FRAME).max() == 0


def test_a_picture_of_another_size_or_kind_becomes_what_the_network_reads(bundle: Path) -> None:
    import io

    from PIL import Image

    stream = io.BytesIO()
    Image.new("RGBA", (40, 30), (200, 200, 200, 10)).save(stream, "PNG")
    pixels = read(stream.getvalue(), Frame(12, 3))
    assert (pixels.shape, pixels.dtype) == ((12, 12, 3), np.uint8)
    assert set(np.unique(pixels)) == {200}
    assert values(pixels[None]).shape == (1, 3, 12, 12)
