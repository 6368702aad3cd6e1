"""A picture model of transformers from its folder, as a backbone: convolutional (ResNet, ConvNeXT, ...) or ViT-like.

Its own preprocessing is inside: grey becomes three channels, pixels are resampled to the size the model was made for
where it takes no other, and normalised by the folder's `preprocessor_config.json`.

Shape legend: B rows, C channels, S pixels a side, F features, N tokens, H and W sides of a feature map.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, JsonValue
from torch import Tensor, nn

from cluster.errors import RecipeError
from cluster.recipe.base import Section
from serving.models.weights import locate

PREPROCESSOR = "preprocessor_config.json"
TRIED = 64  # pixels a side of the picture that the width is found with


class PretrainedParams(Section):
    """What the folder of `weights` says; a recipe leaves it empty."""

    config: dict[str, JsonValue] = Field(min_length=1, description="the model's own config.json")
    mean: list[float] = Field([0.5, 0.5, 0.5], min_length=3, max_length=3, description="of pixels 0 to 1, by channel")
    std: list[float] = Field([0.5, 0.5, 0.5], min_length=3, max_length=3, description="of pixels 0 to 1, by channel")


class Pretrained(nn.Module):
    """`model` behind its preprocessing."""

    mean_C11: Tensor
    std_C11: Tensor

    def __init__(self, params: PretrainedParams, channels: int) -> None:
        from transformers import AutoConfig, AutoModel

        super().__init__()
        auto_config: Any = AutoConfig
        auto: Any = AutoModel
        config = auto_config.for_model(**params.config)
        self.model = auto.from_config(config, dtype=torch.float32)
        # Models of tokens take one size alone; convolutions take any.
        tokens = hasattr(config, "patch_size") and not hasattr(config, "hidden_sizes")
        self.size, self.repeats = config.image_size if tokens else None, config.num_channels // channels
        for name, own in (("mean_C11", params.mean), ("std_C11", params.std)):
            self.register_buffer(name, torch.tensor(own)[: config.num_channels, None, None], persistent=False)
        with torch.no_grad():  # families name their widths differently
            self.width = int(self.eval()(torch.zeros(1, channels, TRIED, TRIED)).shape[1])
        self.train()

    @property
    def stages(self) -> nn.ModuleList:
        """Its convolutional stages, none where it has no such part."""
        found: nn.ModuleList = getattr(getattr(self.model, "encoder", None), "stages", nn.ModuleList())
        return found

    def forward(self, pixels_BCSS: Tensor) -> Tensor:
        """The last feature map [B, F, H, W] of pixels -1 to 1; of tokens, [B, F, N, 1]."""
        x_BCSS = pixels_BCSS.repeat(1, self.repeats, 1, 1)
        if self.size is not None and x_BCSS.shape[-1] != self.size:
            x_BCSS = nn.functional.interpolate(x_BCSS, (self.size, self.size), mode="bilinear", align_corners=False)
        x_BCSS = ((x_BCSS + 1) / 2 - self.mean_C11) / self.std_C11
        last: Tensor = self.model(pixel_values=x_BCSS).last_hidden_state
        return last if last.dim() == 4 else last.transpose(1, 2)[..., None]


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
