"""One small network of every kind that is exported, with random weights wide enough that answers differ."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from jobs.data import vocabulary
from serving.bundle.image_classes import Frame
from serving.bundle.pictures import Media, Picture
from serving.models import decoder, dual_encoder, encoder, image_nets, omni

TEXTS = ["the cat sat", "a dog ran by the sea", "one bird", "the cat sat on a mat and the dog ran", "sea", "a mat"]
WORDS = vocabulary.learned(TEXTS, 270)
LABELS = ["red", "green", "blue", "black", "white"]
TOKENS = {"image": 5, "audio": 7, "video": 8, "vision_start": 3, "vision_end": 4, "audio_start": 6, "audio_end": 9,
          "answer": 2, "pad": 0, "eos": 1}  # fmt: skip


def wide(network: Any, std: float = 0.2) -> Any:
    for number, parameter in enumerate(network.parameters()):
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=std, generator=torch.Generator().manual_seed(number))
    return network.eval()


def bert() -> Any:
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    shape = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 96}
    return BertModel(BertConfig(vocab_size=WORDS.size, **shape), add_pooling_layer=False)


def text_classification(folder: Path) -> dict[str, Any]:
    encoder.save(wide(encoder.TextClassifier(bert(), len(LABELS))), folder)
    return {"labels": LABELS, "max_tokens": 32}


def retrieval(folder: Path) -> dict[str, Any]:
    dual_encoder.save(dual_encoder.DualEncoder(wide(bert()), 20.0), folder)
    return {"labels": TEXTS, "entries": TEXTS, "max_tokens": 32, "scale": 20.0}


def text_generation(folder: Path) -> dict[str, Any]:
    sizes = {"layers": 2, "hidden_size": 32, "heads": 4, "kv_heads": 2, "head_dim": 16, "inner_size": 64}
    wide(decoder.build(sizes, WORDS.size, 64, WORDS.ends, 0), 0.3).save_pretrained(str(folder))
    return {"continues": False, "tokens": WORDS.ends, "max_tokens": 32, "max_new_tokens": 7, "temperature": 0.0,
            "seed": 0}  # fmt: skip


def visual_qa(folder: Path) -> dict[str, Any]:
    sizes = {"layers": 2, "hidden_size": 32, "vision_layers": 1}
    media = Media(Picture(size=8, patch=2, merge=2), 2)
    wide(omni.build(sizes, TOKENS, WORDS.size, media, 0)).save_pretrained(str(folder))
    picture = {"size": 8, "patch": 2, "merge": 2, "temporal": 2, "channels": 3}
    return {"tokens": TOKENS, "picture": picture, "max_images": 2, "max_new_tokens": 4}


def image_classification(folder: Path) -> dict[str, Any]:
    torch.manual_seed(0)
    network = image_nets.build("separable", {}, Frame(12, 1), len(LABELS), 0)
    image_nets.save(network.eval(), folder)
    return {"labels": LABELS, "picture": {"size": 12, "channels": 1}, "max_images": 1}


KINDS: Mapping[str, Callable[[Path], dict[str, Any]]] = {
    "text_classification": text_classification,
    "retrieval": retrieval,
    "text_generation": text_generation,
    "visual_qa": visual_qa,
    "image_classification": image_classification,
}


@pytest.fixture(scope="session")
def model_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The model folder of a task's small network, as `distill` would write it."""
    made: dict[str, Path] = {}

    def make(task: str) -> Path:
        if task not in made:
            folder = tmp_path_factory.mktemp(task)
            spec = KINDS[task](folder) | {"task": task}
            if task != "image_classification":
                WORDS.tokenizer.save(str(folder / "tokenizer.json"))
            (folder / "task.json").write_text(json.dumps(spec))
            made[task] = folder
        return made[task]

    return make


@pytest.fixture(scope="session")
def items_of() -> Callable[[str], list[dict[str, Any]]]:
    """Requests that a task's network reads."""

    def make(task: str) -> list[dict[str, Any]]:
        if task in ("text_classification", "retrieval", "text_generation"):
            return [{"text": text} for text in TEXTS]
        size, items = (12 if task == "image_classification" else 8), []
        for number in range(8):
            buffer = io.BytesIO()
            pixels = np.random.default_rng(number).integers(0, 256, (size, size), dtype=np.uint8)
            Image.fromarray(pixels).save(buffer, "PNG")
            items.append({"text": TEXTS[number % 3], "images": [buffer.getvalue()]})
        return items

    return make
