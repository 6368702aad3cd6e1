"""Answers to questions about pictures, sounds and video: patches, positions, greedy decoding with a key/value cache.

A prompt is its pictures, its video and its sounds, each between two marks, then the question and the answer mark.

Shape legend: B rows, S prompt tokens, A answer tokens, V vocabulary, N pictures, L patches of a picture, F features of
a patch, M image tokens of a picture (L / merge^2), G groups of frames, H hidden size.
"""

from __future__ import annotations

import functools
import io
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from serving import engines
from serving.bundle import clips, sounds
from serving.bundle.answer import Answer, Array, BundleError, by_length, softmax, text_of
from serving.bundle.files import Source, tokenizer_of

MEDIA = ("image", "video", "audio")  # tokens whose embeddings are features, in the order of the feature rows
VIDEO = 2  # kind of a token in `positions`: 0 is text (and sound), 1 a picture


@dataclass(frozen=True)
class Picture:
    """One picture: `size` pixels a side, cut into patches of `patch` pixels, `merge` x `merge` of them to a token."""

    size: int
    patch: int
    merge: int
    temporal: int = 2
    channels: int = 3

    @property
    def grid(self) -> int:
        """Patches per side."""
        return self.size // self.patch

    @property
    def tokens(self) -> int:
        """Image tokens per picture, M."""
        return (self.grid // self.merge) ** 2

    @property
    def features(self) -> int:
        """Features of a patch in one frame, F."""
        return self.channels * self.patch**2


@dataclass(frozen=True)
class Media:
    """What a student can be shown: pictures, and where it knows them a sound and a clip."""

    picture: Picture
    max_images: int
    sound: sounds.Sound | None = None
    clip: clips.Clip | None = None

    @classmethod
    def of(cls, spec: Mapping[str, Any]) -> Media:
        """The media of a `task.json` or `bundle.json`."""
        sound = sounds.Sound(**spec["sound"]) if "sound" in spec else None
        clip = clips.Clip(**spec["clip"]) if "clip" in spec else None
        return cls(Picture(**spec["picture"]), spec["max_images"], sound, clip)


class Prompt(NamedTuple):
    """One request: token ids int64 [S], patches of its pictures uint8 [n, L, F], of its video's groups of frames uint8
    [G, temporal, L, F] with `stride` steps in time between them, and log-mel features of its sound [0 or 1, M, T]."""

    ids: Array
    patches: Array
    groups: Array
    stride: int
    mels: Array


class VisualAnswerer:
    """Questions about media: the tower's graph once per picture and sound, then greedy decoding with a cache."""

    def __init__(self, source: Source, spec: Mapping[str, Any]) -> None:
        self.spec, self.tokens, self.tokenizer = spec, spec["tokens"], tokenizer_of(source)
        self.media = Media.of(spec)
        self.vision, self.decoder = (engines.open_graph(source, name, spec) for name in ("vision", "decoder"))
        self.audio = None if self.media.sound is None else engines.open_graph(source, "audio", spec)

    def predict(self, items: Sequence[Mapping[str, Any]]) -> list[Answer]:
        """Answers in the order of `items`, each as `encode` reads it; raises as `logits`."""
        return [self._answer(logits_AV) for logits_AV in self.logits(items)]

    def logits(self, items: Sequence[Mapping[str, Any]]) -> list[Array]:
        """Logits float32 [A, V] of each item that chose its A tokens, up to and with the end; raises as `encode`."""
        prompts = [encode(item, self.tokenizer, self.tokens, self.media) for item in items]
        return by_length([prompt.ids for prompt in prompts], lambda rows: self._run([prompts[row] for row in rows]))

    def _answer(self, logits_AV: Array) -> Answer:
        tokens = logits_AV.argmax(-1)
        chosen = np.log(softmax(logits_AV)[np.arange(len(tokens)), tokens])
        return Answer(self.tokenizer.decode(tokens.tolist()), float(np.exp(chosen.mean())))

    def _run(self, prompts: Sequence[Prompt]) -> list[Array]:
        batch = together(prompts, self.tokens, self.media)
        feeds = {name: batch[name] for name in ("input_ids", "position_ids", "visual_index")}
        feeds["visual"] = self._features(batch)
        kv = np.zeros((len(prompts), self.spec["kv_heads"], 0, self.spec["head_dim"]), np.float32)
        past, steps = [kv] * (2 * self.spec["layers"]), []
        length = np.full(len(prompts), self.spec["max_new_tokens"])
        for step in range(self.spec["max_new_tokens"]):
            logits_BV, *past = self.decoder(feeds | {f"past_{i}": value for i, value in enumerate(past)})
            steps.append(logits_BV)
            token_B = logits_BV.argmax(-1)
            length = np.where(token_B == self.tokens["eos"], np.minimum(length, step + 1), length)
            if (length <= step + 1).all():
                break
            feeds["input_ids"], feeds["visual_index"] = token_B[:, None], np.zeros((len(token_B), 1), np.int64)
            feeds["position_ids"] = feeds["position_ids"][:, :, -1:] + 1
        return [row[:tokens] for row, tokens in zip(np.stack(steps, 1), length, strict=True)]

    def _features(self, batch: Mapping[str, Array]) -> Array:
        """Features of all media [1 + T, H] whose row 0 is zero: the row that text tokens point to."""
        found = [np.zeros((1, self.spec["hidden_size"]), np.float32)]
        for graph, name in ((self.vision, "pixels"), (self.audio, "mels")):
            if graph is not None and len(batch[name]):
                found.append(graph({name: batch[name]})[0].reshape(-1, found[0].shape[1]))
        return np.concatenate(found)


def read_image(data: bytes, picture: Picture) -> Array:
    """Decode a picture to uint8 [size, size, 3]; raises BundleError when the bytes are none or its size is another
    (seen before anything is decoded, so that a decompression bomb never unfolds)."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "BMP", "WEBP")) as image:
            if image.size == (picture.size, picture.size):
                return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise BundleError("image: not a readable PNG, JPEG, BMP or WEBP picture") from error
    raise BundleError(f"image: got {image.width}x{image.height} pixels, expected {picture.size}x{picture.size}")


def patchify(image_HWC: Array, picture: Picture) -> Array:
    """Cut a uint8 picture into merge-block ordered patches, uint8 [L, C*patch*patch] (Qwen2-VL's patch order)."""
    g, p, m, c = picture.grid, picture.patch, picture.merge, picture.channels
    blocks = image_HWC.reshape(g // m, m, p, g // m, m, p, c)
    return np.ascontiguousarray(blocks.transpose(0, 3, 1, 4, 6, 2, 5)).reshape(g * g, c * p * p)


def pixel_values(patches_NLF: Array, picture: Picture) -> Array:
    """Normalise uint8 patches to -1..1 and repeat them in time: float32 [N, L, C*temporal*patch*patch]."""
    n, length, width = patches_NLF.shape
    values = patches_NLF.astype(np.float32).reshape(n, length, picture.channels, 1, picture.patch**2) / 127.5 - 1.0
    return np.repeat(values, picture.temporal, axis=3).reshape(n, length, width * picture.temporal)


@functools.lru_cache(1024)  # questions differ in their words, and most of one length have one layout
def positions(kinds: bytes, picture: Picture, stride: int = 1) -> Array:
    """Rotary positions int64 [3, S] (time, height, width) for tokens marked 0 (text and sound), 1 (M image tokens per
    picture) or VIDEO (M tokens per group of frames, groups `stride` steps apart), a byte each; not to be written to.

    Text advances all three; a picture keeps its time and spreads rows and columns (arXiv 2409.12191, section 2.1).
    """
    side = picture.grid // picture.merge
    out = np.empty((3, len(kinds)), np.int64)
    at = index = group = 0
    while index < len(kinds):
        kind = kinds[index]
        step = side if kind else 1
        block = np.arange(step * step)
        time = group * stride if kind == VIDEO else 0
        out[:, index : index + len(block)] = at + np.stack([block * 0 + time, block // step, block % step])
        index, group = index + len(block), group + 1 if kind == VIDEO else 0
        if kind != VIDEO or index == len(kinds) or kinds[index] != VIDEO:
            at, group = at + max(step, time + 1), 0
    return out


def encode(item: Mapping[str, Any], tokenizer: Any, tokens: Mapping[str, int], media: Media) -> Prompt:
    """A request `{"text": str, "images": [encoded bytes], "audio": WAV bytes, "frames": [encoded bytes], "fps": float}`
    (all but `text` may be missing) as a prompt.

    Raises BundleError for an empty question, what cannot be read, and media that the student does not know.
    """
    picture = media.picture
    images = [patchify(read_image(data, picture), picture) for data in item.get("images", ())]
    if len(images) > media.max_images:
        raise BundleError(f"images: got {len(images)}, expected at most {media.max_images}")
    groups, stride = _video(item, media)
    mels = _sound(item, media)
    ids = prompt_ids(text_of(item), (len(images), len(groups), len(mels)), tokenizer, tokens, media)
    shape = (picture.grid**2, picture.features)
    patches = np.asarray(images, np.uint8).reshape(len(images), *shape)
    return Prompt(np.asarray(ids, np.int64), patches, groups, stride, mels)


def _video(item: Mapping[str, Any], media: Media) -> tuple[Array, int]:
    picture, clip, frames = media.picture, media.clip, item.get("frames") or ()
    if not len(frames):
        return np.zeros((0, picture.temporal, picture.grid**2, picture.features), np.uint8), 1
    most = 0 if clip is None else clip.frames
    if clip is None or len(frames) > most:
        raise BundleError(f"frames: got {len(frames)}, expected at most {most}")
    if not (isinstance(fps := item.get("fps"), int | float) and 0 < fps < float("inf")):
        raise BundleError(f"fps: got {fps!r:.40}, expected the frames per second of the video, above 0")
    patches = np.stack([patchify(read_image(data, picture), picture) for data in frames])
    return clips.grouped(patches, picture.temporal), clips.stride(fps, picture.temporal, clip)


def _sound(item: Mapping[str, Any], media: Media) -> Array:
    if item.get("audio") is None:
        shape = (0, 0, 0) if media.sound is None else (0, media.sound.mels, media.sound.frames)
        return np.zeros(shape, np.float32)
    if media.sound is None:
        raise BundleError("audio: got a sound, expected none: this student does not hear")
    return sounds.heard(item["audio"], media.sound)[None]


def prompt_ids(text: str, counts: tuple[int, int, int], tokenizer: Any, tokens: Mapping[str, int],
               media: Media) -> list[int]:  # fmt: skip
    """Token ids of a prompt; `counts` are its pictures, groups of frames (one video) and sounds."""
    images, groups, heard = counts
    image = [tokens["vision_start"], *[tokens["image"]] * media.picture.tokens, tokens["vision_end"]]
    frames = [tokens["video"]] * (media.picture.tokens * groups)
    video = [tokens["vision_start"], *frames, tokens["vision_end"]] if groups else []
    length = 0 if media.sound is None else media.sound.tokens
    sound = [tokens["audio_start"], *[tokens["audio"]] * length, tokens["audio_end"]] if heard else []
    return [*image * images, *video, *sound * heard, *tokenizer.encode(text.lower()).ids, tokens["answer"]]


def placement(ids_BS: Array, tokens: Mapping[str, int], picture: Picture,
              stride_B: Sequence[int] | None = None) -> tuple[Array, Array]:  # fmt: skip
    """Where each token's embedding comes from and where it stands: visual_index int64 [B, S] (0 = text, k = row k of
    the features: pictures numbered through the batch, then video, then sounds) and position_ids int64 [3, B, S]."""
    index, known = np.zeros(ids_BS.shape, np.int64), 0
    for name in MEDIA:
        own = ids_BS == tokens[name]
        index = np.where(own, known + np.cumsum(own.reshape(-1)).reshape(ids_BS.shape), index)
        known += int(own.sum())
    kinds = ((ids_BS == tokens["image"]) + VIDEO * (ids_BS == tokens["video"])).astype(np.uint8)
    strides = [1] * len(ids_BS) if stride_B is None else stride_B
    rows = [positions(row.tobytes(), picture, int(step)) for row, step in zip(kinds, strides, strict=True)]
    return index, np.stack(rows, 1)


def together(prompts: Sequence[Prompt], tokens: Mapping[str, int], media: Media) -> dict[str, Array]:
    """A batch of prompts of one length: input_ids, visual_index [B, S], position_ids [3, B, S], pixels float32
    [N + G, L, C*temporal*patch*patch] (pictures of all rows, then video) and mels float32 [sounds, M, T]."""
    ids_BS = np.stack([prompt.ids for prompt in prompts])
    index, place = placement(ids_BS, tokens, media.picture, [prompt.stride for prompt in prompts])
    patches = np.concatenate([prompt.patches for prompt in prompts])
    groups = np.concatenate([prompt.groups for prompt in prompts])
    mels = np.concatenate([prompt.mels for prompt in prompts])
    pixels = all_pixels(patches, groups, media.picture)
    return {"input_ids": ids_BS, "visual_index": index, "position_ids": place, "pixels": pixels, "mels": mels}


def all_pixels(patches_NLF: Array, groups_GTLF: Array, picture: Picture) -> Array:
    """Values of pictures and, behind them, of groups of frames, as the tower takes them."""
    values = pixel_values(patches_NLF, picture)
    if not len(groups_GTLF):
        return values
    return np.concatenate([values, clips.video_values(groups_GTLF, picture.channels)])
