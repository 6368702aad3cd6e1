"""Where the running service of a store can be reached: what the process that serves it publishes while it lives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from cluster import claim
from cluster.errors import InputError

Publish = Callable[[Mapping[str, Any]], None]


def claimed(folder: Path) -> AbstractContextManager[Publish]:
    """Hold the folder while serving; the value writes what readers then see: {pid, url, recipe, model, version}.

    See `cluster.claim.held`. Raises InputError when another process serves from this folder.
    """

    def taken() -> InputError:
        got = read(folder) or "a service that starts"
        return InputError("this store is being served already", got=got, hint="python -m serving down ends it")

    return claim.held(folder, taken)


def read(folder: Path) -> dict[str, Any] | None:
    """The address of the service that runs; None when none runs, {} when one is starting."""
    return claim.read(folder)
