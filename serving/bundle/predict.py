"""Answer requests with an exported student: one folder, ONNX Runtime, numpy and tokenizers (Pillow for pictures).

This very file is imported by the gateway and copied verbatim into every bundle, so a served answer and
`python predict.py --text "what digit is this ?" --image three.png` come from the same code and the same bits.

Shape legend: B rows, S prompt tokens, P cached tokens, V vocabulary or classes, N pictures, L patches of a picture,
M image tokens of a picture (L / merge^2), H hidden size, K key/value heads, D head size.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import struct
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


class BundleError(ValueError):
    """The bundle or a request does not fit: names the file or field, what was got and what was expected."""


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


@dataclass(frozen=True)
class Answer:
    """One answer: `text` (or the class name), `confidence` in 0..1 (exp of the mean token log-probability, or the
    largest class probability), and `probabilities` by class for classifiers."""

    text: str
    confidence: float
    probabilities: dict[str, float] | None = None


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


def positions(kinds: Sequence[int], picture: Picture) -> Array:
    """Rotary positions int64 [3, S] (time, height, width) for tokens marked 0 (text) or 1 (image, M per picture).

    Text advances all three; a picture keeps its time and spreads rows and columns (arXiv 2409.12191, section 2.1).
    """
    side = picture.grid // picture.merge
    out = np.empty((3, len(kinds)), np.int64)
    at = index = 0
    while index < len(kinds):
        step = side if kinds[index] else 1
        block = np.arange(step * step)
        out[:, index : index + len(block)] = at + np.stack([block * 0, block // step, block % step])
        index, at = index + len(block), at + step
    return out


def softmax(logits: Array) -> Array:
    """Probabilities over the last axis, float32."""
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(-1, keepdims=True), np.float32)


def verify(folder: Path) -> dict[str, Any]:
    """Read `bundle.json` and check every listed file's sha256; raises BundleError naming a missing or changed one."""
    path = folder / "bundle.json"
    try:
        spec = json.loads(path.read_text())
        files = dict(spec["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{path}: not a readable bundle description ({error})") from error
    for name, entry in files.items():
        digest = hashlib.sha256((folder / name).read_bytes()).hexdigest() if (folder / name).is_file() else "missing"
        if digest != entry["sha256"]:
            raise BundleError(f"{folder / name}: sha256 {digest}, expected {entry['sha256']}; copy the bundle again")
    return dict(spec)


class Graph:
    """One ONNX graph on the CPU with the threads and graph optimization the bundle pins."""

    def __init__(self, path: Path, threads: int) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level, options.graph_optimization_level = 3, ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        self.session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.inputs = {node.name for node in self.session.get_inputs()}

    def __call__(self, feeds: Mapping[str, Array]) -> list[Array]:
        """Outputs in the graph's order; feeds that the graph does not read are left out."""
        return list(self.session.run(None, {name: value for name, value in feeds.items() if name in self.inputs}))


class Classifier:
    """Text classes: one forward per row length, softmax over the labels of the bundle."""

    def __init__(self, folder: Path, spec: Mapping[str, Any]) -> None:
        self.spec, self.tokenizer = spec, read_tokenizer(folder)
        self.graph = Graph(folder / "model.onnx", spec["threads"])

    def predict(self, items: Sequence[Mapping[str, Any]]) -> list[Answer]:
        """Answers in the order of `items`, each `{"text": str}`; raises as `logits`."""
        return [named(softmax(logits_1V[0]), self.spec["labels"]) for logits_1V in self.logits(items)]

    def logits(self, items: Sequence[Mapping[str, Any]]) -> list[Array]:
        """Logits float32 [1, V] of each item. Raises BundleError for an empty text."""
        ids = [encode_text(item, self.tokenizer, self.spec) for item in items]
        return by_length(ids, lambda rows: self.graph({"input_ids": np.stack([ids[row] for row in rows])})[0][:, None])


class VisualAnswerer:
    """Questions about pictures: vision graph once per picture, then greedy decoding with a key/value cache."""

    def __init__(self, folder: Path, spec: Mapping[str, Any]) -> None:
        self.spec, self.tokens, self.tokenizer = spec, spec["tokens"], read_tokenizer(folder)
        self.picture = Picture(**spec["picture"])
        self.vision, self.decoder = (Graph(folder / name, spec["threads"]) for name in ("vision.onnx", "decoder.onnx"))

    def predict(self, items: Sequence[Mapping[str, Any]]) -> list[Answer]:
        """Answers in the order of `items`, each `{"text": str, "images": [encoded bytes, ...]}`; raises as `logits`."""
        return [self._answer(logits_AV) for logits_AV in self.logits(items)]

    def logits(self, items: Sequence[Mapping[str, Any]]) -> list[Array]:
        """Logits float32 [A, V] of each item that chose its A tokens, up to and with the end.

        Raises BundleError for an empty question, an unreadable picture or more pictures than the student knows.
        """
        prompts = [encode(item, self.tokenizer, self.spec, self.picture) for item in items]
        return by_length([ids for ids, _ in prompts], lambda rows: self._run([prompts[row] for row in rows]))

    def _answer(self, logits_AV: Array) -> Answer:
        tokens = logits_AV.argmax(-1)
        chosen = np.log(softmax(logits_AV)[np.arange(len(tokens)), tokens])
        return Answer(self.tokenizer.decode(tokens.tolist()), float(np.exp(chosen.mean())))

    def _run(self, prompts: Sequence[tuple[Array, Array]]) -> list[Array]:
        ids_BS = np.stack([ids for ids, _ in prompts])
        visual_TH = self._visual(np.concatenate([patches for _, patches in prompts]))
        index_BS, position_3BS = placement(ids_BS, self.tokens["image"], self.picture)
        kv = np.zeros((len(prompts), self.spec["kv_heads"], 0, self.spec["head_dim"]), np.float32)
        past, steps = [kv] * (2 * self.spec["layers"]), []
        length = np.full(len(prompts), self.spec["max_new_tokens"])
        for step in range(self.spec["max_new_tokens"]):
            feeds = {"input_ids": ids_BS, "position_ids": position_3BS, "visual_index": index_BS, "visual": visual_TH}
            logits_BV, *past = self.decoder(feeds | {f"past_{i}": value for i, value in enumerate(past)})
            steps.append(logits_BV)
            token_B = logits_BV.argmax(-1)
            length = np.where(token_B == self.tokens["eos"], np.minimum(length, step + 1), length)
            if (length <= step + 1).all():
                break
            ids_BS, index_BS = token_B[:, None], np.zeros((len(token_B), 1), np.int64)
            position_3BS = position_3BS[:, :, -1:] + 1
        return [row[:tokens] for row, tokens in zip(np.stack(steps, 1), length, strict=True)]

    def _visual(self, patches_NLF: Array) -> Array:
        """Image features [1 + N*M, H] whose row 0 is zero: the row that text tokens point to."""
        zero = np.zeros((1, self.spec["hidden_size"]), np.float32)
        if not len(patches_NLF):
            return zero
        (features,) = self.vision({"pixels": pixel_values(patches_NLF, self.picture)})
        return np.concatenate([zero, features.reshape(-1, zero.shape[1])])


def encode(item: Mapping[str, Any], tokenizer: Any, spec: Mapping[str, Any], picture: Picture) -> tuple[Array, Array]:
    """Token ids int64 [S] and patches uint8 [n, L, C*patch*patch] of a question about pictures; raises as `logits`."""
    images = [read_image(data, picture) for data in item.get("images", ())]
    if len(images) > spec["max_images"]:
        raise BundleError(f"images: got {len(images)}, expected at most {spec['max_images']}")
    ids = prompt_ids(_text(item), len(images), tokenizer, spec["tokens"], picture)
    patches = np.asarray([patchify(image, picture) for image in images], np.uint8)
    return np.asarray(ids, np.int64), patches.reshape(len(images), picture.grid**2, picture.channels * picture.patch**2)


def encode_text(item: Mapping[str, Any], tokenizer: Any, spec: Mapping[str, Any]) -> Array:
    """Token ids int64 [S] of a text, cut at `max_tokens`. Raises BundleError for an empty text."""
    return np.asarray(tokenizer.encode(_text(item)).ids[: spec["max_tokens"]], np.int64)


def named(probabilities_V: Array, labels: Sequence[str]) -> Answer:
    """The likeliest label with its probability, and every label's."""
    by_label = {label: float(value) for label, value in zip(labels, probabilities_V, strict=True)}
    best = labels[int(probabilities_V.argmax())]
    return Answer(best, by_label[best], by_label)


def prompt_ids(text: str, images: int, tokenizer: Any, tokens: Mapping[str, int], picture: Picture) -> list[int]:
    """Token ids of a prompt: each picture between its two marks, the question, then the answer mark."""
    block = [tokens["vision_start"], *[tokens["image"]] * picture.tokens, tokens["vision_end"]]
    return [*block * images, *tokenizer.encode(text.lower()).ids, tokens["answer"]]


def placement(ids_BS: Array, image_token: int, picture: Picture) -> tuple[Array, Array]:
    """Where each token's embedding comes from and where it stands: visual_index int64 [B, S] (0 = text, k = row k of
    the features, pictures numbered through the batch) and position_ids int64 [3, B, S]."""
    is_image = ids_BS == image_token
    index = np.where(is_image, np.cumsum(is_image.reshape(-1)).reshape(ids_BS.shape), 0)
    return index.astype(np.int64), np.stack([positions(row, picture) for row in is_image.tolist()], 1)


def load(folder: str | Path) -> Classifier | VisualAnswerer:
    """Open a bundle after checking every file's sha256. Raises BundleError naming what does not fit."""
    spec, kinds = verify(Path(folder)), {"text_classification": Classifier, "visual_qa": VisualAnswerer}
    if spec.get("task") not in kinds:
        raise BundleError(f"bundle.json: task: got {spec.get('task')!r}, expected one of {sorted(kinds)}")
    return kinds[spec["task"]](Path(folder), spec)  # type: ignore[return-value]


def read_tokenizer(folder: Path) -> Any:
    """The tokenizer of a model folder or bundle."""
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def _text(item: Mapping[str, Any]) -> str:
    if not isinstance(text := item.get("text"), str) or not text.strip():
        raise BundleError(f"text: got {text!r:.80}, expected a non-empty string")
    return text


def by_length(ids: Sequence[Array], run: Callable[[list[int]], Any], batch: int = 256) -> list[Any]:
    """Values of `run(rows)` in row order, asked for rows of one length at a time, at most `batch`: no row is ever
    padded (padding would change what `fast` INT8 answers)."""
    groups: dict[int, list[int]] = {}
    for row, one in enumerate(ids):
        groups.setdefault(len(one), []).append(row)
    parts = [rows[start : start + batch] for rows in groups.values() for start in range(0, len(rows), batch)]
    found = {row: value for rows in parts for row, value in zip(rows, run(rows), strict=True)}
    return [found[row] for row in range(len(ids))]


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: print one JSON answer. Exit 2 for a request or a bundle that does not fit."""
    parser = argparse.ArgumentParser(description="Answer one request with the student in this folder.")
    parser.add_argument("--text", required=True, help="question, or text to classify")
    parser.add_argument("--image", type=Path, action="append", default=[], help="a picture file; repeat for two")
    parser.add_argument("--bundle", type=Path, default=Path(__file__).resolve().parent)
    options = parser.parse_args(arguments)
    try:
        item = {"text": options.text, "images": [path.read_bytes() for path in options.image]}
        sys.stdout.write(json.dumps(asdict(load(options.bundle).predict([item])[0])) + "\n")
    except (BundleError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
