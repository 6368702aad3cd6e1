"""Drops rows whose picture and text do not belong together: cosine of a dual encoder's two embeddings (CLIPScore,
Hessel et al. 2021, without its factor).

Any CLIP in a Hugging Face folder is an encoder; another kind is one more class in `ENCODERS`. A recipe without one
is refused.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from pydantic import Field

from cluster.errors import RecipeError
from cluster.recipe import Recipe
from cluster.recipe.base import Section
from jobs.data.filters.rows import Rows, Verdicts

BATCH = 64


class Params(Section):
    """The encoder and the cut."""

    encoder: str = Field(min_length=1, description="folder of a dual encoder's config, weights and tokenizer")
    kind: Literal["clip"] = Field("clip", description="what the folder holds")
    minimum: float = Field(0.2, ge=-1, le=1, description="least cosine of picture and text (CLIP: 0.2 to 0.3 is usual)")
    column: Literal["prompt", "response"] = Field("response", description="text that should say what the picture shows")


class Encoder(Protocol):
    """Two unit vectors that can be compared."""

    def pictures(self, files: Sequence[bytes]) -> np.ndarray:
        """Encoded pictures -> unit vectors float32 [R, E]."""

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Texts -> unit vectors float32 [R, E]."""


def check(params: Params, recipe: Recipe) -> None:
    """Refuse a folder that holds no dual encoder. Raises RecipeError."""
    config = Path(params.encoder) / "config.json"
    got = "no such file" if not config.is_file() else json.loads(config.read_text()).get("model_type")
    if got != params.kind:
        expected = f"the config.json of a {params.kind} model, with weights and tokenizer beside it"
        raise RecipeError(f"image_text.encoder: {config}", got=got, expected=expected)


def image_text(rows: Rows, params: Params) -> Verdicts:
    """ "image_text_mismatch" where the least cosine over a row's pictures is below the cut, which is the score. Rows
    without pictures or text pass unscored."""
    pairs = [
        (row, image, text)
        for row, (images, text) in enumerate(
            zip(rows.samples["images"].to_pylist(), rows.samples[params.column].to_pylist(), strict=True)
        )
        for image in images or ()
        if text
    ]
    scores = np.full(rows.samples.num_rows, np.inf)
    encoder = ENCODERS[params.kind](params.encoder) if pairs else None
    for start in range(0, len(pairs), BATCH):
        assert encoder is not None
        places, images, texts = zip(*pairs[start : start + BATCH], strict=True)
        cosine = (encoder.pictures(images) * encoder.texts(texts)).sum(1)
        np.minimum.at(scores, np.array(places), cosine)
    reasons = ["image_text_mismatch" if value < params.minimum else None for value in scores.tolist()]
    return Verdicts(reasons, np.where(np.isinf(scores), np.nan, scores))


class Clip:
    """A CLIP model of transformers; pictures are resized and centre-cropped as its preprocessor_config.json says."""

    def __init__(self, folder: str) -> None:
        from transformers import AutoTokenizer, CLIPModel

        load: Any = CLIPModel.from_pretrained  # its types are wider than what it returns
        self.model = load(folder)
        self.model.eval()
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        said = json.loads((Path(folder) / "preprocessor_config.json").read_text())
        self.size = int(self.model.config.vision_config.image_size)
        self.mean, self.std = (np.array(said[name], np.float32) for name in ("image_mean", "image_std"))

    def pictures(self, files: Sequence[bytes]) -> np.ndarray:
        """See `Encoder.pictures`."""
        import torch

        pixels_RCHW = np.stack([self._pixels(file) for file in files]).transpose(0, 3, 1, 2)
        with torch.inference_mode():
            vision = self.model.vision_model(pixel_values=torch.from_numpy(np.ascontiguousarray(pixels_RCHW)))
            return _unit(self.model.visual_projection(vision.pooler_output).numpy())

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """See `Encoder.texts`."""
        import torch

        longest = self.model.config.text_config.max_position_embeddings
        batch = self.tokenizer(list(texts), padding=True, truncation=True, max_length=longest, return_tensors="pt")
        with torch.inference_mode():
            text = self.model.text_model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
            return _unit(self.model.text_projection(text.pooler_output).numpy())

    def _pixels(self, file: bytes) -> np.ndarray:
        """Normalised pixels float32 [H, W, 3]."""
        from PIL import Image

        with Image.open(io.BytesIO(file)) as opened:
            image = opened.convert("RGB")
        scale = self.size / min(image.size)
        width, height = (max(self.size, round(side * scale)) for side in image.size)
        left, top = (width - self.size) // 2, (height - self.size) // 2
        square = image.resize((width, height), Image.Resampling.BICUBIC).crop(
            (left, top, left + self.size, top + self.size)
        )
        out: np.ndarray = (np.asarray(square, np.float32) / 255 - self.mean) / self.std
        return out


def _unit(values_RE: np.ndarray) -> np.ndarray:
    out: np.ndarray = values_RE / np.linalg.norm(values_RE, axis=1, keepdims=True).clip(1e-9)
    return out


ENCODERS: dict[str, Callable[[str], Encoder]] = {"clip": Clip}
