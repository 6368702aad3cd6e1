"""The one way a value becomes bytes and then a hash, so that equal inputs give equal ids on every host."""

import hashlib
import json
from pathlib import Path
from typing import Any

CHUNK_BYTES = 1 << 20


def canonical_json(value: Any) -> str:
    """Return JSON with sorted keys and no whitespace.

    Raises ValueError on NaN or infinity, TypeError on what JSON has no form for.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value: Any) -> str:
    """Return the sha256 (64 hex characters) of the canonical JSON of `value`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """Return the sha256 (64 hex characters) of a file's bytes, read in pieces of 1 MiB.

    Raises OSError when it cannot be read.
    """
    running = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(CHUNK_BYTES):
            running.update(piece)
    return running.hexdigest()
