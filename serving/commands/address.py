"""Where the running service of a store can be reached: a small file that lives and dies with the process behind it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cluster.errors import InputError

FILE = "address.json"  # {pid, url, recipe, model, version}


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Hold the folder's address (made, mode 0600) while serving; the value writes what readers then see.

    The lock on the file ends with the process, even by kill -9, so a file without its lock is a dead service's. Raises
    InputError when another process serves from this folder.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / FILE
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            got = read(folder) or "a service that starts"
            hint = "python -m serving down ends it"
            raise InputError("this store is being served already", got=got, hint=hint) from None

        def publish(address: dict[str, Any]) -> None:
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
    """The address of the service that runs; None when none runs, {} when one is starting."""
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
