"""The files of a bundle: every byte checked before any of it is opened, the signature too, and decrypted when read.

`bundle.json` lists each file's sha256 and carries a digest of itself; `bundle.sig` (optional) signs it with Ed25519.
Keys come from the environment: a public key there means that an unsigned bundle is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from serving.bundle import seal
from serving.bundle.answer import BundleError

DESCRIPTION, SIGNATURE = "bundle.json", "bundle.sig"
NESTED = ("float32", "teacher")  # bundles of their own below this one, with descriptions of their own
COMPILED = "__pycache__"  # Python leaves it where a bundle is imported; `predict.py` itself never reads it
COMMON: Mapping[str, type] = {"task": str, "engine": dict, "threads": int, "files": dict}  # fields that every one has


class Source(Protocol):
    """Where an answerer reads its files."""

    def read(self, name: str) -> bytes:
        """The content of a file. Raises BundleError naming what is missing or changed."""


class Folder:
    """A plain folder, nothing checked: for what was written a moment ago."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, name: str) -> bytes:
        """See `Source`."""
        return _bytes(self.path / name)


class Verified:
    """A bundle whose every file was checked; what is read later is checked once more, so it is what was verified."""

    def __init__(self, path: Path, spec: Mapping[str, Any], key: bytes | None) -> None:
        self.path, self.spec, self.key = path, spec, key

    def read(self, name: str) -> bytes:
        """See `Source`; decrypted where the file is encrypted."""
        if name not in self.spec["files"]:
            raise BundleError(f"{DESCRIPTION}: files: {name} is not listed")
        entry, data = self.spec["files"][name], _bytes(self.path / name)
        _compare(name, hashlib.sha256(data).hexdigest(), entry["sha256"])
        return seal.opened(data, name, self.key) if entry["encrypted"] else data


def verified(folder: Path, environment: Mapping[str, str] = os.environ) -> Verified:
    """Check the description, the signature, and every file below `folder`.

    Raises BundleError with one line that names the field or file: changed, missing, not listed, not signed.
    """
    data = _bytes(folder / DESCRIPTION)
    spec = described(data)
    _signed(folder, data, environment)
    key = seal.key_of(environment) if any(entry["encrypted"] for entry in spec["files"].values()) else None
    for name, entry in spec["files"].items():
        path = folder / name
        if path.is_symlink() or not path.is_file():
            raise BundleError(f"{name}: missing (no plain file), expected sha256 {entry['sha256']}")
        _compare(name, _digest(path), entry["sha256"])
    _refuse_more(folder, spec["files"])
    return Verified(folder, spec, key)


def written(spec: Mapping[str, Any]) -> bytes:
    """`bundle.json` of a description (without `digest`, which is added): the only bytes that say this."""
    plain = {name: value for name, value in spec.items() if name != "digest"}
    return json.dumps({**plain, "digest": hashlib.sha256(json.dumps(plain).encode()).hexdigest()}, indent=1).encode()


def described(data: bytes) -> dict[str, Any]:
    """The description in `bundle.json`'s bytes. Raises BundleError: not readable, changed, or a field that is wrong."""
    try:
        spec = json.loads(data.decode("ascii"))
        again = written(spec)
    except (ValueError, AttributeError, RecursionError) as error:
        raise BundleError(f"{DESCRIPTION}: not a readable bundle description ({error})") from error
    if "digest" not in spec:
        raise BundleError(f"{DESCRIPTION}: digest: missing; export the bundle again")
    if data != again:
        expected = json.loads(again)["digest"]
        raise BundleError(f"{DESCRIPTION}: digest: got {spec['digest']!r:.80}, its content has {expected}")
    for field, kind in COMMON.items():
        if field not in spec or not isinstance(spec[field], kind):
            raise BundleError(f"{DESCRIPTION}: {field}: missing or no {kind.__name__}")
    for name, entry in spec["files"].items():
        place = PurePosixPath(name)
        if place.is_absolute() or ".." in place.parts or str(place) != name:
            raise BundleError(f"{DESCRIPTION}: files: {name!r:.80} is no place inside a bundle")
        if not isinstance(entry, dict) or not {"sha256", "bytes", "encrypted"} <= set(entry):
            raise BundleError(f"{DESCRIPTION}: files: {name}: expected sha256, bytes and encrypted")
    return dict(spec)


def tokenizer_of(source: Source) -> Any:
    """The tokenizer of a bundle. Raises BundleError when its file is none."""
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_str(source.read("tokenizer.json").decode())
    except BundleError:
        raise
    except Exception as error:  # tokenizers raises bare Exception for what it cannot read
        raise BundleError(f"tokenizer.json: not a readable tokenizer ({error})") from error


def _signed(folder: Path, description: bytes, environment: Mapping[str, str]) -> None:
    """Check the signature where a public key asks for it; without one, that the signature file is whole."""
    wanted, path = seal.public_key_of(environment), folder / SIGNATURE
    if path.is_symlink() or not path.is_file():
        if wanted is not None:
            raise BundleError(f"{SIGNATURE}: missing: the bundle is not signed, and {seal.PUBLIC} asks for it")
        return
    seal.verify(_bytes(path), description, wanted)


def _refuse_more(folder: Path, listed: Mapping[str, Any]) -> None:
    known = {DESCRIPTION, SIGNATURE, *listed}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if name.parts[0] in NESTED or (path.is_dir() and not path.is_symlink()):
            continue
        if name.as_posix() not in known and name.parent.name != COMPILED:
            raise BundleError(f"{name.as_posix()}: not listed in {DESCRIPTION}; a bundle holds nothing else")


def _compare(name: str, got: str, expected: str) -> None:
    if got != expected:
        raise BundleError(f"{name}: sha256 {got}, expected {expected}; copy the bundle again")


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path.name}: cannot be read ({error.strerror or error})") from error
