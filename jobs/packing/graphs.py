"""A model folder as float32 graphs: which exporter writes a task's network."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from serving.bundle import answer, pictures, texts

Exporter = Callable[[Path, Path, Mapping[str, Any], int | None], Mapping[str, int]]


def export(model: Path, folder: Path, opset: int | None) -> dict[str, Any]:
    """Write a model folder's float32 graphs and tokenizer into `folder` (made); returns what describes them so far.

    `opset` None: TorchScript instead of ONNX.
    """
    folder.mkdir(parents=True)
    spec: dict[str, Any] = json.loads((model / "task.json").read_text())
    copy_tokenizer(model, folder)
    return {**spec, **GRAPHS[spec["task"]](model, folder, spec, opset)}


def copy_tokenizer(source: Path, target: Path) -> None:
    """The tokenizer, where the task has one."""
    if (source / "tokenizer.json").is_file():
        shutil.copyfile(source / "tokenizer.json", target / "tokenizer.json")


def _visual_qa(model: Path, folder: Path, spec: Mapping[str, Any], opset: int | None) -> dict[str, int]:
    from serving.models import omni, omni_export

    return omni_export.export(omni.load(model), folder, pictures.Media.of(spec), opset)


def _text_classification(model: Path, folder: Path, spec: Mapping[str, Any], opset: int | None) -> dict[str, int]:
    from serving.models import encoder

    encoder.export(encoder.load(model), folder, opset)
    return {}


def _text_generation(model: Path, folder: Path, spec: Mapping[str, Any], opset: int | None) -> dict[str, int]:
    from serving.models import decoder, decoder_graph

    return decoder_graph.export(decoder.load(model), folder, opset)


def _image_classification(model: Path, folder: Path, spec: Mapping[str, Any], opset: int | None) -> dict[str, int]:
    from serving.models import image_nets

    image_nets.export(image_nets.load(model), folder, opset)
    return {}


def _retrieval(model: Path, folder: Path, spec: Mapping[str, Any], opset: int | None) -> dict[str, int]:
    from serving.models import dual_encoder

    tokenizer = answer.read_tokenizer(model)
    entries = [texts.encode_text({"text": entry}, tokenizer, spec) for entry in spec["entries"]]
    dual_encoder.export(dual_encoder.load(model), folder, entries, opset)
    return {}


GRAPHS: Mapping[str, Exporter] = {
    "retrieval": _retrieval,
    "visual_qa": _visual_qa,
    "text_generation": _text_generation,
    "text_classification": _text_classification,
    "image_classification": _image_classification,
}
