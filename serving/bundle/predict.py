"""Answer requests with an exported student: one folder, its engine, numpy and tokenizers (Pillow for pictures).

This very file is imported by the gateway and copied verbatim into every bundle, with the modules of `serving/bundle`
and `serving/engines` that it imports below it, so a served answer and
`python predict.py --text "what digit is this ?" --image three.png` come from the same code and the same bits.
`python predict.py --self-test` asks the golden samples inside the bundle.

A bundle cannot vouch for its own `predict.py` where somebody replaced that file: ask one that you trust, a repository's
(`python -m serving.bundle.predict --verify --bundle FOLDER`) or another bundle's, which take the same options.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

OLDEST = (3, 11)


def _refuse_changed_code(folder: Path) -> None:
    """End with exit code 2 when code below `folder` is not what `bundle.json` says, or what all of it needs is not
    there: run before any of it is imported, as a damaged file may be no Python at all. Everything else is checked by
    `verify`."""
    sys.dont_write_bytecode, sys.pycache_prefix = True, os.devnull  # compiled code is neither left there nor read
    try:
        if sys.version_info < OLDEST:
            raise ValueError(f"Python {sys.version.split()[0]} is too old; a bundle needs {OLDEST[0]}.{OLDEST[1]}")
        if importlib.util.find_spec("numpy") is None:
            raise ValueError("numpy is not installed; a bundle needs it, tokenizers and its engine")
        files = json.loads((folder / "bundle.json").read_bytes())["files"]
        for name in [name for name in files if name.endswith(".py")]:
            if hashlib.sha256((folder / name).read_bytes()).hexdigest() != files[name]["sha256"]:
                raise ValueError(f"{name}: sha256 is not the one in bundle.json; copy the bundle again")
    except (OSError, ValueError, TypeError, KeyError) as error:
        known = isinstance(error, (ValueError, OSError))
        sys.stderr.write(f"error: {error if known else 'bundle.json: ' + str(error)}\n")
        sys.exit(2)


if __name__ == "__main__" and __spec__ is None:  # as a file of a bundle; with -m it is a repository's own
    _refuse_changed_code(Path(__file__).resolve().parent)

from serving.bundle import files, golden, seal  # noqa: E402 - only after its bytes were checked
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


def checked(folder: Path, environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """What `--verify` prints: the bundle's `task`, `engine`, `scheme` and `lineage`, how many `files` and `bytes` it
    has (all of them checked), whether any is `encrypted`, whom it names as signer, and whether that was checked
    (`signature`: "checked" where the environment holds the public key, else "not checked", or "none").

    Raises BundleError as `load`.
    """
    spec = files.verified(folder, environment).spec
    signature = folder / files.SIGNATURE
    signer = seal.signer(signature.read_bytes()) if signature.is_file() else None
    how = "none" if signer is None else "checked" if seal.PUBLIC in environment else "not checked"
    entries = spec["files"].values()
    about = {name: spec[name] for name in ("task", "engine", "scheme", "lineage") if name in spec}
    return {
        "verified": True, **about, "files": len(entries), "bytes": sum(entry["bytes"] for entry in entries),
        "encrypted": any(entry["encrypted"] for entry in entries), "signed_by": signer, "signature": how,
    }  # fmt: skip


def self_test(folder: str | Path) -> dict[str, Any]:
    """Ask the golden samples one by one; returns what `golden.compare` says. Raises BundleError as `load`."""
    bundle = files.verified(Path(folder))
    samples, student = golden.read(bundle), opened(bundle)
    return golden.compare(samples, [student.predict([item])[0] for item, _, _ in samples])


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: print one JSON answer. Exit 2 with one line for a request, a bundle or a machine that does not fit,
    1 for a self-test that is not passed."""
    parser = argparse.ArgumentParser(description="Answer one request with the student in this folder.")
    parser.add_argument("--text", default="", help="question, or text to classify; a picture alone needs none")
    parser.add_argument("--image", type=Path, action="append", default=[], help="a picture file; repeat for two")
    parser.add_argument("--audio", type=Path, help="a WAV file, one channel of 16 bits")
    parser.add_argument("--video", type=Path, action="append", default=[], help="a frame's file; repeat, in order")
    parser.add_argument("--fps", type=float, default=1.0, help="frames per second of the video")
    parser.add_argument("--bundle", type=Path, default=Path(__file__).resolve().parent)
    parser.add_argument("--self-test", action="store_true", help="ask the bundle's golden samples instead")
    parser.add_argument("--verify", action="store_true", help="check every file and the signature, and answer nothing")
    options = parser.parse_args(arguments)
    try:
        found, code = _found(options)
    except (BundleError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except ImportError as error:
        sys.stderr.write(f"error: {error.name} is not installed; this bundle needs it to answer\n")
        return 2
    sys.stdout.write(json.dumps(found) + "\n")
    return code


def _found(options: argparse.Namespace) -> tuple[dict[str, Any], int]:
    """What is asked for, and the exit code. Raises BundleError, and OSError or ImportError for what is not there."""
    try:
        if options.verify:
            return checked(options.bundle), 0
        if options.self_test:
            tested = self_test(options.bundle)
            return tested, 0 if tested["passed"] else 1
        return asdict(load(options.bundle).predict([_item(options)])[0]), 0
    except (BundleError, OSError, ImportError):
        raise
    except Exception as error:  # a description that is whole but of other files: engines raise what they like
        what = " ".join(str(error).split())[:300]
        raise BundleError(f"bundle.json does not describe these files ({type(error).__name__}: {what})") from error


def _item(options: argparse.Namespace) -> dict[str, Any]:
    item: dict[str, Any] = {"text": options.text, "images": [path.read_bytes() for path in options.image]}
    item |= {"audio": options.audio.read_bytes()} if options.audio else {}
    item |= {"frames": [path.read_bytes() for path in options.video], "fps": options.fps} if options.video else {}
    return item


if __name__ == "__main__":
    sys.exit(main())
