"""A folder that one process at a time may claim: a small file says where that process can be reached, and dies with it.

The process holds a lock on the file. The lock ends with the process, even by kill -9, so a file without its lock is a
dead one's.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from cluster.errors import InputError

FILE = "address.json"


@contextlib.contextmanager
def held(folder: Path, taken: Callable[[], InputError]) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Claim the folder (made, this user's only) while the block runs; the value writes what readers then see.

    The file has mode 0600 and is gone at the end. Raises what `taken` makes when another process holds it.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / FILE
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise taken() from None

        def publish(address: Mapping[str, Any]) -> None:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(address, indent=1).encode(), 0)

        os.ftruncate(descriptor, 0)
        try:
            yield publish
        finally:
            path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def read(folder: Path) -> dict[str, Any] | None:
    """What the process that holds the folder has published; {} when it is starting, None when there is none."""
    try:
        with (folder / FILE).open() as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                text = stream.read()
                return dict(json.loads(text)) if text else {}
    except FileNotFoundError:
        pass
    return None
