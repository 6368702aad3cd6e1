"""The picture classifier as transformers reads it: a network of `networks` and a linear head over its mean features.

This file and `networks.py` lie beside the weights (`auto_map` in config.json) and need nothing but torch and
transformers: `AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=True)`.

Shape legend: B rows, S pixels a side, C channels, V classes, F features, H and W sides of a feature map.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutputWithNoAttention

from serving.models.networks import Pretrained, ResNet, Separable

NETWORKS: Mapping[str, Any] = {"pretrained": Pretrained, "resnet": ResNet, "separable": Separable}


class PictureConfig(PreTrainedConfig):  # type: ignore[no-untyped-call]
    """`architecture` (a key of NETWORKS), its sizes `params`, and `picture`: {size, channels}."""

    model_type = "raydistill_pictures"

    def __init__(self, architecture: str = "separable", params: Any = None, picture: Any = None, **more: Any) -> None:
        self.architecture, self.params, self.picture = architecture, params, picture
        super().__init__(**more)


class PictureClassifier(PreTrainedModel):  # type: ignore[no-untyped-call]
    """`backbone` and `head`."""

    config_class = PictureConfig
    main_input_name = "pixel_values"

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        kind = NETWORKS[config.architecture]
        self.backbone = kind(SimpleNamespace(**config.params), config.picture["channels"])
        self.head = nn.Linear(self.backbone.width, config.num_labels)
        self.post_init()  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)  # type: ignore[no-untyped-call]
        if isinstance(module, Pretrained):
            module.normalised()  # buffers that no file of weights holds

    def forward(
        self, pixel_values: Tensor, labels: Tensor | None = None, **_: Any
    ) -> ImageClassifierOutputWithNoAttention:
        """Logits [B, V] of pixels float32 [B, C, S, S] from -1 (0 of 255) to 1 (255), C and S as in
        `config.picture`."""
        map_BFHW = self.backbone(pixel_values.contiguous(memory_format=torch.channels_last))
        logits_BV = self.head(map_BFHW.mean((2, 3)))
        loss = None if labels is None else nn.functional.cross_entropy(logits_BV, labels)
        return ImageClassifierOutputWithNoAttention(loss=loss, logits=logits_BV)
