"""Folders of students in a process that has transformers and none of our packages: the same logits, named classes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from serving.bundle.image_classes import Frame
from serving.models import encoder, image_nets

LABELS = ["card", "loan", "rate"]
# What a stranger runs: a folder, an auto class, its inputs in a file; logits are written beside.
STRANGER = """
import json, sys
import numpy as np, torch, transformers
folder, kind, given = sys.argv[1:4]
for name in ("cluster", "jobs", "serving"):
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    raise SystemExit(f"{name} is here")
model, told = getattr(transformers, kind).from_pretrained(folder, trust_remote_code=True, output_loading_info=True)
inputs = {name: torch.from_numpy(value) for name, value in np.load(given).items()}
with torch.no_grad():
    np.save(given + ".out.npy", model.eval()(**inputs).logits.numpy())
print(json.dumps({"labels": model.config.id2label, "told": {name: sorted(own) for name, own in told.items() if own}}))
"""


def stranger(folder: Path, kind: str, elsewhere: Path, **inputs: np.ndarray) -> tuple[dict[str, Any], np.ndarray]:
    """What a process without our packages says of a folder, and its logits."""
    elsewhere.mkdir()
    given = elsewhere / "given.npz"
    np.savez(given, **inputs)  # type: ignore[arg-type]
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    own |= {"HF_HOME": str(elsewhere / "hf"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", STRANGER, folder, kind, given], cwd=elsewhere, env=own, capture_output=True, text=True,
        check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1]), np.load(f"{given}.out.npy")


def bert(**changes: Any) -> Any:
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    return BertModel(BertConfig(vocab_size=60, **sizes | changes), add_pooling_layer=False)


def distilbert() -> Any:
    from transformers import DistilBertConfig, DistilBertModel

    torch.manual_seed(0)
    return DistilBertModel(DistilBertConfig(vocab_size=60, dim=32, n_layers=2, n_heads=2, hidden_dim=48))


@pytest.mark.parametrize("make", [bert, distilbert])
def test_a_text_classifier_answers_the_same_where_only_transformers_is_installed(make: Any, tmp_path: Path) -> None:
    own = encoder.TextClassifier(make(), len(LABELS)).eval()
    encoder.save(own, tmp_path / "student", LABELS)
    ids_BS = np.arange(30).reshape(3, 10) % 60
    mask_BS = (np.arange(10) < np.array([10, 4, 7])[:, None]).astype(np.int64)
    with torch.no_grad():
        want_BC = own({"input_ids": torch.from_numpy(ids_BS), "attention_mask": torch.from_numpy(mask_BS)})[0].numpy()
        again = encoder.load(tmp_path / "student")
        batch = {"input_ids": torch.from_numpy(ids_BS), "attention_mask": torch.from_numpy(mask_BS)}
        np.testing.assert_array_equal(again(batch)[0].numpy(), want_BC)
    told, got_BC = stranger(
        tmp_path / "student", "AutoModelForSequenceClassification", tmp_path / "elsewhere",
        input_ids=ids_BS, attention_mask=mask_BS,
    )  # fmt: skip
    np.testing.assert_allclose(got_BC, want_BC, rtol=1e-5, atol=1e-6)
    assert told == {"labels": {str(index): name for index, name in enumerate(LABELS)}, "told": {}}


def test_plain_automodel_reads_the_encoder_of_a_text_classifier(tmp_path: Path) -> None:
    own = encoder.TextClassifier(bert(), 2).eval()
    encoder.save(own, tmp_path)
    bare = encoder.bare_of(str(tmp_path))
    for name, value in own.encoder.state_dict().items():
        torch.testing.assert_close(bare.state_dict()[name], value)


def test_a_folder_with_its_head_in_a_file_of_its_own_is_still_read(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    own = encoder.TextClassifier(bert(), 2).eval()
    own.encoder.save_pretrained(tmp_path)
    save_file(dict(own.head.state_dict()), tmp_path / encoder.HEAD)
    assert torch.equal(encoder.load(tmp_path).head.weight, own.head.weight)


def picture_students() -> dict[str, Any]:
    from transformers import ViTConfig

    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = json.loads(ViTConfig(image_size=16, patch_size=8, **small).to_json_string(use_diff=False))
    sizes = {"stem": 8, "widths": [8, 16], "depths": [1, 2]}
    return {
        "separable": ({}, Frame(12, 1)), "resnet": (sizes, Frame(12, 3)),
        "pretrained": ({"config": config, "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4]}, Frame(12, 1)),
    }  # fmt: skip


@pytest.mark.parametrize("architecture", ["separable", "resnet", "pretrained"])
def test_a_picture_classifier_answers_the_same_where_only_transformers_is_installed(
    architecture: str, tmp_path: Path
) -> None:
    params, frame = picture_students()[architecture]
    own = image_nets.build(architecture, params, frame, len(LABELS), 0).eval()
    for module in own.modules():  # running means that say something
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.2, 0.2)  # type: ignore[arg-type]
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)  # type: ignore[arg-type]
    image_nets.save(own, tmp_path / "student", LABELS)
    shape = (2, frame.channels, frame.size, frame.size)
    pixels = (torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1).numpy()
    with torch.no_grad():
        want_BV = own(torch.from_numpy(pixels))[0].numpy()
        again = image_nets.load(tmp_path / "student")
        np.testing.assert_array_equal(again(torch.from_numpy(pixels))[0].numpy(), want_BV)
    told, got_BV = stranger(
        tmp_path / "student", "AutoModelForImageClassification", tmp_path / "elsewhere", pixel_values=pixels
    )
    np.testing.assert_allclose(got_BV, want_BV, rtol=1e-5, atol=1e-6)
    assert told == {"labels": {str(index): name for index, name in enumerate(LABELS)}, "told": {}}
