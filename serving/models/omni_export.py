"""Graphs of the Qwen3-Omni thinker as `serving.bundle.pictures` feeds them: `vision`, `decoder`, and `audio`
where it hears.

Shape legend: B rows, S new tokens, P cached tokens, N pictures, L patches of a picture, F patch features, T tokens of
media in the batch, H hidden size, K key/value heads, D head size.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from serving.bundle.pictures import Media
from serving.models import tracing
from serving.models.omni_graphs import Decoder, Hearing, Vision


def export(model: nn.Module, folder: Path, media: Media, opset: int | None = 17) -> dict[str, int]:
    """Write the graphs (float32) into an existing folder; the model itself is left as it was.

    Returns what the bundle says about the cache: layers, kv_heads, head_dim, hidden_size (counts).
    """
    own: Any = copy.deepcopy(model).eval().float().cpu()
    text = own.config.text_config
    shape = {
        "layers": text.num_hidden_layers, "kv_heads": text.num_key_value_heads,
        "head_dim": text.head_dim, "hidden_size": text.hidden_size,
    }  # fmt: skip
    picture, features = media.picture, {"features": {0: "N"}}
    pixels_NLF = torch.rand(2, picture.grid**2, picture.temporal * picture.features) * 2 - 1
    tracing.write(Vision(own, picture), (pixels_NLF,), folder / "vision", ({"pixels": {0: "N"}}, features), opset)
    if media.sound is not None:
        mels_DMW = torch.rand(2, media.sound.mels, media.sound.frames) * 2 - 1
        tracing.write(Hearing(own, media.sound), (mels_DMW,), folder / "audio", ({"mels": {0: "N"}}, features), opset)
    cache = range(2 * shape["layers"])
    inputs = {
        "input_ids": {0: "B", 1: "S"}, "position_ids": {1: "B", 2: "S"}, "visual_index": {0: "B", 1: "S"},
        "visual": {0: "T"}, **{f"past_{i}": {0: "B", 2: "P"} for i in cache},
    }  # fmt: skip
    outputs = {"logits": {0: "B"}, **{f"present_{i}": {0: "B", 2: "PS"} for i in cache}}
    tracing.write(Decoder(own), _example(shape), folder / "decoder", (inputs, outputs), opset)
    return shape


def _example(shape: Mapping[str, int]) -> tuple[Tensor, ...]:
    """Decoder inputs to trace with: no two sizes equal, so that none can stand in for another."""
    rows, new, old, images = 2, 7, 5, 3
    cache = torch.zeros(rows, shape["kv_heads"], old, shape["head_dim"])
    index = torch.zeros(rows, new, dtype=torch.long)
    index[:, 1:3] = 1
    steps = torch.arange(old, old + new).expand(3, rows, new)
    visual = torch.zeros(1 + images, shape["hidden_size"])
    return (torch.ones(rows, new, dtype=torch.long), steps, index, visual, *[cache] * (2 * shape["layers"]))
