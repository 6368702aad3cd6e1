"""The code inside every bundle: pictures and positions as transformers makes them, and a folder that answers alone."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from serving.bundle import answer, pictures, predict

PICTURE = pictures.Picture(size=8, patch=2, merge=2)


def test_patches_are_those_of_transformers() -> None:
    from transformers import Qwen2VLImageProcessorPil

    shown = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    half = [0.5] * 3
    processor = Qwen2VLImageProcessorPil(
        patch_size=2, merge_size=2, temporal_patch_size=2, image_mean=half, image_std=half, do_resize=False
    )
    theirs = processor(images=list(shown), return_tensors="np")["pixel_values"]
    ours = pictures.pixel_values(np.stack([pictures.patchify(one, PICTURE) for one in shown]), PICTURE)
    np.testing.assert_array_equal(ours.reshape(theirs.shape), theirs)


def test_a_bundle_answers_alone_in_a_bare_process(bundle: Path, tmp_path: Path) -> None:
    copied = tmp_path / "elsewhere"
    shutil.copytree(bundle, copied, ignore=shutil.ignore_patterns("float32", "teacher"))
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8) * 3).save(tmp_path / "one.png")
    command = [sys.executable, copied / "predict.py", "--text", "is it even ?", "--image", tmp_path / "one.png"]
    ran = subprocess.run(command, cwd=tmp_path, env={}, capture_output=True, text=True, check=True)
    (here,) = predict.load(bundle).predict([{"text": "is it even ?", "images": [(tmp_path / "one.png").read_bytes()]}])
    assert json.loads(ran.stdout) == {"text": here.text, "confidence": here.confidence, "probabilities": None}


def test_a_bundle_names_the_file_in_which_one_bit_was_flipped(bundle: Path, tmp_path: Path) -> None:
    copied = tmp_path / "bundle"
    shutil.copytree(bundle, copied)
    graph = copied / "decoder.onnx"
    data = bytearray(graph.read_bytes())
    data[len(data) // 2] ^= 1
    graph.write_bytes(data)
    with pytest.raises(predict.BundleError, match=r"decoder\.onnx: sha256"):
        predict.load(copied)


@pytest.mark.parametrize(
    ("item", "says"),
    [
        ({"text": " ", "images": []}, "text"),
        ({"text": "a", "images": [b"no picture"]}, "readable"),
        ({"text": "a", "images": [b"\x89PNG\r\n\x1a\n" + b"\0" * 40]}, "readable"),
        ({"text": "a", "images": [b"GIF89a" + b"\0" * 40]}, "readable"),
    ],
)
def test_what_cannot_be_read_is_named(bundle: Path, item: dict[str, object], says: str) -> None:
    with pytest.raises(predict.BundleError, match=says):
        predict.load(bundle).predict([item])


def test_a_picture_of_another_size_is_refused_before_it_is_decoded(bundle: Path, tmp_path: Path) -> None:
    Image.new("1", (9000, 9000)).save(tmp_path / "bomb.png")
    with pytest.raises(predict.BundleError, match="9000x9000"):
        predict.load(bundle).predict([{"text": "a", "images": [(tmp_path / "bomb.png").read_bytes()]}])


def test_rows_of_different_lengths_keep_their_order() -> None:
    rows = [np.zeros(length) for length in (3, 1, 3, 2, 1)]
    assert answer.by_length(rows, lambda group: [10 * row for row in group], batch=1) == [0, 10, 20, 30, 40]
