"""Answer requests with an exported student: one folder, its engine, numpy and tokenizers (Pillow for pictures).

This very file is imported by the gateway and copied verbatim into every bundle, with the modules of `serving/bundle`
and `serving/engines` that it imports below it, so a served answer and
`python predict.py --text "what digit is this ?" --image three.png` come from the same code and the same bits.
`python predict.py --self-test` asks the golden samples inside the bundle.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol


def _refuse_changed_code(folder: Path) -> None:
    """End with exit code 2 when code below `folder` is not what `bundle.json` says: run before any of it is imported,
    as a damaged file may be no Python at all. Everything else is checked by `verify`."""
    sys.dont_write_bytecode, sys.pycache_prefix = True, os.devnull  # compiled code is neither left there nor read
    try:
        files = json.loads((folder / "bundle.json").read_bytes())["files"]
        for name in [name for name in files if name.endswith(".py")]:
            if hashlib.sha256((folder / name).read_bytes()).hexdigest() != files[name]["sha256"]:
                raise ValueError(f"{name}: sha256 is not the one in bundle.json; copy the bundle again")
    except (OSError, ValueError, TypeError, KeyError) as error:
        sys.stderr.write(
            f"error: {error if isinstance(error, ValueError | OSError) else 'bundle.json: ' + str(error)}\n"
        )
        sys.exit(2)


if __name__ == "__main__":
    _refuse_changed_code(Path(__file__).resolve().parent)

from serving.bundle import files, golden  # noqa: E402 - only after its bytes were checked
from serving.bundle.answer import Answer, Array, BundleError  # noqa: E402

__all__ = ["Answer", "Answerer", "BundleError", "load", "main", "self_test", "verify"]


class Answerer(Protocol):
    """A student that is loaded: `spec` is what its `bundle.json` says."""

    spec: Mapping[str, Any]

    def predict(self, items: Sequence[Mapping[str, Any]]) -> list[Answer]:
        """Answers in the order of `items`. Raises BundleError for a request that cannot be read."""

    def logits(self, items: Sequence[Mapping[str, Any]]) -> list[Array]:
        """Logits float32 [positions, V] of each item, which chose its answer; raises as `predict`."""


def _texts(source: files.Source, spec: Mapping[str, Any]) -> Answerer:
    from serving.bundle.texts import Classifier

    return Classifier(source, spec)


def _pictures(source: files.Source, spec: Mapping[str, Any]) -> Answerer:
    from serving.bundle.pictures import VisualAnswerer

    return VisualAnswerer(source, spec)


def _ranking(source: files.Source, spec: Mapping[str, Any]) -> Answerer:
    from serving.bundle.retrieval import Retriever

    return Retriever(source, spec)


def _writing(source: files.Source, spec: Mapping[str, Any]) -> Answerer:
    from serving.bundle.writing import Writer

    return Writer(source, spec)


def _image_classes(source: files.Source, spec: Mapping[str, Any]) -> Answerer:
    from serving.bundle.image_classes import ImageClassifier

    return ImageClassifier(source, spec)


# By task; only the modules of the bundle's own task are imported.
KINDS: dict[str, Callable[[files.Source, Mapping[str, Any]], Answerer]] = {
    "retrieval": _ranking,
    "text_classification": _texts,
    "image_classification": _image_classes,
    "text_generation": _writing,
    "visual_qa": _pictures,
}

CACHE = ("layers", "kv_heads", "head_dim")
# What the description of a task has beside what every one has: asked for before anything is opened.
FIELDS: dict[str, Sequence[str]] = {
    "retrieval": ("labels", "max_tokens", "scale"),
    "text_classification": ("labels", "max_tokens"),
    "image_classification": ("labels", "picture"),
    "text_generation": ("tokens", "continues", "max_tokens", "max_new_tokens", "temperature", "seed", *CACHE),
    "visual_qa": ("tokens", "picture", "max_images", "max_new_tokens", "hidden_size", *CACHE),
}


def load(folder: str | Path) -> Answerer:
    """Open a bundle after checking its description, its signature and every file.

    Raises BundleError naming the field or file that does not fit; nothing is opened then.
    """
    return opened(files.verified(Path(folder)))


def opened(bundle: files.Verified) -> Answerer:
    """The student of a bundle that was checked. Raises BundleError naming a field or file that does not fit."""
    return of(bundle, bundle.spec)


def of(source: files.Source, spec: Mapping[str, Any]) -> Answerer:
    """The student of a description and its files. Raises BundleError naming a field or file that does not fit."""
    if spec["task"] not in KINDS:
        raise BundleError(f"bundle.json: task: got {spec['task']!r:.80}, expected one of {sorted(KINDS)}")
    for field in FIELDS[spec["task"]]:
        if field not in spec:
            raise BundleError(f"bundle.json: {field}: missing; a student for {spec['task']} needs it")
    try:
        return KINDS[spec["task"]](source, spec)
    except (KeyError, TypeError) as error:
        raise BundleError(f"bundle.json: {error.args[0]!s:.80}: missing or of another form") from error


def verify(folder: Path) -> dict[str, Any]:
    """Check every byte of a bundle as `load` does, without opening it; returns what `bundle.json` says."""
    return dict(files.verified(folder).spec)


def self_test(folder: str | Path) -> dict[str, Any]:
    """Ask the golden samples one by one; returns what `golden.compare` says. Raises BundleError as `load`."""
    bundle = files.verified(Path(folder))
    samples, student = golden.read(bundle), opened(bundle)
    return golden.compare(samples, [student.predict([item])[0] for item, _, _ in samples])


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: print one JSON answer. Exit 2 for a request or a bundle that does not fit, 1 for a self-test that
    is not passed."""
    parser = argparse.ArgumentParser(description="Answer one request with the student in this folder.")
    parser.add_argument("--text", default="", help="question, or text to classify; a picture alone needs none")
    parser.add_argument("--image", type=Path, action="append", default=[], help="a picture file; repeat for two")
    parser.add_argument("--audio", type=Path, help="a WAV file, one channel of 16 bits")
    parser.add_argument("--video", type=Path, action="append", default=[], help="a frame's file; repeat, in order")
    parser.add_argument("--fps", type=float, default=1.0, help="frames per second of the video")
    parser.add_argument("--bundle", type=Path, default=Path(__file__).resolve().parent)
    parser.add_argument("--self-test", action="store_true", help="ask the bundle's golden samples instead")
    options = parser.parse_args(arguments)
    try:
        if options.self_test:
            found = self_test(options.bundle)
            sys.stdout.write(json.dumps(found) + "\n")
            return 0 if found["passed"] else 1
        sys.stdout.write(json.dumps(asdict(load(options.bundle).predict([_item(options)])[0])) + "\n")
    except (BundleError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


def _item(options: argparse.Namespace) -> dict[str, Any]:
    item: dict[str, Any] = {"text": options.text, "images": [path.read_bytes() for path in options.image]}
    item |= {"audio": options.audio.read_bytes()} if options.audio else {}
    item |= {"frames": [path.read_bytes() for path in options.video], "fps": options.fps} if options.video else {}
    return item


if __name__ == "__main__":
    sys.exit(main())
