"""Picture models of transformers as teachers: their weights, their preprocessing, and their graphs."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import ResNetConfig, ResNetForImageClassification, ViTConfig, ViTForImageClassification

from cluster.errors import RecipeError
from cluster.recipe import ModelSection
from jobs.tasks import image_models
from serving.bundle.image_classes import Frame
from serving.models import image_nets

FRAME = Frame(24, 1)


def folder_of(kind: str, folder: Path) -> str:
    """A tiny published model with its preprocessing beside it."""
    torch.manual_seed(0)
    convolutions = ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic")
    tokens = ViTConfig(image_size=32, patch_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                       intermediate_size=16)  # fmt: skip
    made: dict[str, Any] = {"convolutions": (ResNetForImageClassification, convolutions),
                            "tokens": (ViTForImageClassification, tokens)}  # fmt: skip
    network, config = made[kind]
    network(config).save_pretrained(folder)
    said = {"image_mean": [0.2, 0.3, 0.4], "image_std": [0.3, 0.2, 0.1]}
    (folder / "preprocessor_config.json").write_text(json.dumps(said))
    return str(folder)


@pytest.mark.parametrize("kind", ["convolutions", "tokens"])
def test_a_published_model_keeps_its_weights_through_folder_and_graph(kind: str, tmp_path: Path) -> None:
    from transformers import AutoModel

    (tmp_path / "own").mkdir()
    section = ModelSection.parse({"architecture": "pretrained", "weights": folder_of(kind, tmp_path)})
    image_models.check("teacher", section)
    network = image_models.build(section, FRAME, 3, 0).eval()
    image_nets.save(network, tmp_path / "own")
    again = image_nets.load(tmp_path / "own")
    pixels = torch.rand(2, 1, 24, 24) * 2 - 1
    logits, features = network(pixels)
    assert (logits.shape, torch.equal(again(pixels)[0], logits)) == ((2, 3), True)
    assert image_nets.export(again, tmp_path / "own") < 1e-5
    seen = pixels.repeat(1, 3, 1, 1)
    if kind == "tokens":
        seen = torch.nn.functional.interpolate(seen, (32, 32), mode="bilinear")
    mean, std = (torch.tensor(own)[:, None, None] for own in ([0.2, 0.3, 0.4], [0.3, 0.2, 0.1]))
    published: Any = AutoModel
    with torch.no_grad():
        last = published.from_pretrained(tmp_path).eval()(pixel_values=((seen + 1) / 2 - mean) / std).last_hidden_state
    torch.testing.assert_close(features, last.mean((2, 3)) if kind == "convolutions" else last.mean(1))


def test_a_folder_of_another_kind_of_model_is_refused(tmp_path: Path) -> None:
    from transformers import BertConfig

    BertConfig().save_pretrained(tmp_path)
    section = ModelSection.parse({"architecture": "pretrained", "weights": str(tmp_path)})
    with pytest.raises(RecipeError, match="no picture model"):
        image_models.build(section, FRAME, 3, 0)
    with pytest.raises(RecipeError, match="come from its weights"):
        image_models.check("teacher", ModelSection.parse({"architecture": "pretrained"}))
