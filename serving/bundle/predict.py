"""Answer requests with an exported student: one folder, ONNX Runtime, numpy and tokenizers (Pillow for pictures).

This very file is imported by the gateway and copied verbatim into every bundle, with the modules of `serving/bundle`
that it imports below it, so a served answer and `python predict.py --text "what digit is this ?" --image three.png`
come from the same code and the same bits.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from serving.bundle.answer import Answer, Array, BundleError

__all__ = ["Answer", "Answerer", "BundleError", "load", "main", "verify"]


class Answerer(Protocol):
    """A student that is loaded: `spec` is what its `bundle.json` says."""

    spec: Mapping[str, Any]

    def predict(self, items: Sequence[Mapping[str, Any]]) -> list[Answer]:
        """Answers in the order of `items`. Raises BundleError for a request that cannot be read."""

    def logits(self, items: Sequence[Mapping[str, Any]]) -> list[Array]:
        """Logits float32 [positions, V] of each item, which chose its answer; raises as `predict`."""


def _texts(folder: Path, spec: Mapping[str, Any]) -> Answerer:
    from serving.bundle.texts import Classifier

    return Classifier(folder, spec)


def _pictures(folder: Path, spec: Mapping[str, Any]) -> Answerer:
    from serving.bundle.pictures import VisualAnswerer

    return VisualAnswerer(folder, spec)


def _ranking(folder: Path, spec: Mapping[str, Any]) -> Answerer:
    from serving.bundle.retrieval import Retriever

    return Retriever(folder, spec)


def _writing(folder: Path, spec: Mapping[str, Any]) -> Answerer:
    from serving.bundle.writing import Writer

    return Writer(folder, spec)


def _image_classes(folder: Path, spec: Mapping[str, Any]) -> Answerer:
    from serving.bundle.image_classes import ImageClassifier

    return ImageClassifier(folder, spec)


# By task; only the modules of the bundle's own task are imported.
KINDS: dict[str, Callable[[Path, Mapping[str, Any]], Answerer]] = {
    "retrieval": _ranking,
    "text_classification": _texts,
    "image_classification": _image_classes,
    "text_generation": _writing,
    "visual_qa": _pictures,
}


def load(folder: str | Path) -> Answerer:
    """Open a bundle after checking every file's sha256. Raises BundleError naming what does not fit."""
    spec = verify(Path(folder))
    if spec.get("task") not in KINDS:
        raise BundleError(f"bundle.json: task: got {spec.get('task')!r}, expected one of {sorted(KINDS)}")
    return KINDS[spec["task"]](Path(folder), spec)


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


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: print one JSON answer. Exit 2 for a request or a bundle that does not fit."""
    parser = argparse.ArgumentParser(description="Answer one request with the student in this folder.")
    parser.add_argument("--text", default="", help="question, or text to classify; a picture alone needs none")
    parser.add_argument("--image", type=Path, action="append", default=[], help="a picture file; repeat for two")
    parser.add_argument("--audio", type=Path, help="a WAV file, one channel of 16 bits")
    parser.add_argument("--video", type=Path, action="append", default=[], help="a frame's file; repeat, in order")
    parser.add_argument("--fps", type=float, default=1.0, help="frames per second of the video")
    parser.add_argument("--bundle", type=Path, default=Path(__file__).resolve().parent)
    options = parser.parse_args(arguments)
    try:
        item = {"text": options.text, "images": [path.read_bytes() for path in options.image]}
        item |= {"audio": options.audio.read_bytes()} if options.audio else {}
        item |= {"frames": [path.read_bytes() for path in options.video], "fps": options.fps} if options.video else {}
        sys.stdout.write(json.dumps(asdict(load(options.bundle).predict([item])[0])) + "\n")
    except (BundleError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
