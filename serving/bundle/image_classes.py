"""Picture classes: one picture in, a class with every class's probability out.

`read` is the only way a picture becomes pixels, for training and serving alike: header first, so that a decompression
bomb never unfolds, then grey or RGB, then the student's size.

Shape legend: B rows, S pixels a side, C channels, V classes.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from serving import engines
from serving.bundle.answer import Answer, Array, BundleError, named, softmax
from serving.bundle.files import Source

FORMATS = ("PNG", "JPEG", "BMP", "WEBP")
PIXELS_MAX = 1 << 26  # of a picture as it is sent: 64 megapixels
BATCH = 256  # rows of one call


@dataclass(frozen=True)
class Frame:
    """What the network sees: `size` pixels a side, `channels` 1 (grey) or 3 (RGB)."""

    size: int
    channels: int


def read(data: bytes, frame: Frame) -> Array:
    """A picture's bytes as uint8 [S, S, C].

    Raises BundleError when they are none, or a picture of more than PIXELS_MAX pixels.
    """
    from PIL import Image

    bomb = (Image.DecompressionBombError, Image.DecompressionBombWarning)
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height <= PIXELS_MAX:
                return framed(image, frame)
            got = f"{image.width}x{image.height}"
    except bomb as error:
        raise BundleError(f"image: more than {PIXELS_MAX} pixels ({error})") from error
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
        raise BundleError("image: not a readable PNG, JPEG, BMP or WEBP picture") from error
    raise BundleError(f"image: got {got} pixels, expected at most {PIXELS_MAX}")


def framed(image: Any, frame: Frame) -> Array:
    """An opened Pillow image as uint8 [S, S, C]: other sizes are resampled (bilinear, not cut), alpha is left out."""
    from PIL import Image

    plain = image.convert("L" if frame.channels == 1 else "RGB")
    if plain.size != (frame.size, frame.size):
        plain = plain.resize((frame.size, frame.size), Image.Resampling.BILINEAR)
    return np.asarray(plain).reshape(frame.size, frame.size, frame.channels)


def values(pixels_BSSC: Array) -> Array:
    """uint8 pixels as the network reads them: float32 [B, C, S, S], -1 to 1."""
    return np.ascontiguousarray(pixels_BSSC.transpose(0, 3, 1, 2), np.float32) / np.float32(127.5) - np.float32(1)


def picture_of(item: Mapping[str, Any], frame: Frame) -> Array:
    """The one picture of a request, uint8 [S, S, C]. Raises BundleError when there is none, several, or as `read`."""
    images: Sequence[bytes] = item.get("images") or []
    if len(images) != 1:
        raise BundleError(f"images: got {len(images)}, expected 1")
    return read(images[0], frame)


def blank(frame: Frame) -> bytes:
    """A black picture as PNG bytes: something to read when nobody has asked yet."""
    from PIL import Image

    stream = io.BytesIO()
    Image.new("L", (frame.size, frame.size)).save(stream, "PNG")
    return stream.getvalue()


class ImageClassifier:
    """Picture classes: one forward per batch, softmax over the labels of the bundle."""

    def __init__(self, source: Source, spec: Mapping[str, Any]) -> None:
        self.spec, self.frame = spec, Frame(**spec["picture"])
        self.graph = engines.open_graph(source, "model", spec)

    def predict(self, items: Sequence[Mapping[str, Any]]) -> list[Answer]:
        """Answers in the order of `items`, each `{"images": [encoded bytes]}`; raises as `logits`."""
        return [named(softmax(logits_1V[0]), self.spec["labels"]) for logits_1V in self.logits(items)]

    def logits(self, items: Sequence[Mapping[str, Any]]) -> list[Array]:
        """Logits float32 [1, V] of each item. Raises BundleError as `picture_of`."""
        pixels = [picture_of(item, self.frame) for item in items]
        parts = [values(np.stack(pixels[start : start + BATCH])) for start in range(0, len(pixels), BATCH)]
        return [np.asarray(row)[None] for part in parts for row in self.graph({"pixels": part})[0]]
