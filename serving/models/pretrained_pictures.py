"""A picture model of transformers from its folder, as a backbone: convolutional (ResNet, ConvNeXT, ...) or ViT-like.

Its own preprocessing is inside: grey becomes three channels, pixels are resampled to the size the model was made for
where it takes no other, and normalised by the folder's `preprocessor_config.json`.

The network itself is `networks.Pretrained`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, JsonValue
from torch import nn

from cluster.errors import RecipeError
from cluster.recipe.base import Section
from serving.models.weights import locate

PREPROCESSOR = "preprocessor_config.json"


class PretrainedParams(Section):
    """What the folder of `weights` says; a recipe leaves it empty."""

    config: dict[str, JsonValue] = Field(min_length=1, description="the model's own config.json")
    mean: list[float] = Field([0.5, 0.5, 0.5], min_length=3, max_length=3, description="of pixels 0 to 1, by channel")
    std: list[float] = Field([0.5, 0.5, 0.5], min_length=3, max_length=3, description="of pixels 0 to 1, by channel")


def params_of(weights: str) -> dict[str, Any]:
    """`PretrainedParams` of a folder or hub id, as plain values. Raises RecipeError when it holds no picture model."""
    from transformers import AutoConfig

    source = locate(weights)
    config = AutoConfig.from_pretrained(source)
    if not hasattr(config, "num_channels"):
        expected = "a model that reads pictures (num_channels in its config)"
        raise RecipeError("teacher.weights: no picture model", got=config.model_type, expected=expected)
    found: dict[str, Any] = {"config": json.loads(config.to_json_string(use_diff=False))}
    said = Path(source) / PREPROCESSOR
    if said.is_file():
        told = json.loads(said.read_text())
        found |= {name: told[f"image_{name}"] for name in ("mean", "std") if f"image_{name}" in told}
    return found


def take(backbone: nn.Module, weights: str) -> None:
    """Load the folder's weights into a `Pretrained` that was made of its `params_of`."""
    from transformers import AutoModel

    auto: Any = AutoModel
    own: Any = backbone
    own.model.load_state_dict(auto.from_pretrained(locate(weights), dtype=torch.float32).state_dict())
