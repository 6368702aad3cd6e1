"""Which versions a job was submitted with, so that a cluster with others says so before the first minute is spent."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping

from cluster.errors import MismatchError

VARIABLE = "RAYDISTILL_PINS"  # {package: version}, stamped at submit
# Those that write or read what crosses processes: pickles, tables, weights, graphs, recipes.
PACKAGES = ("ray", "torch", "transformers", "tokenizers", "numpy", "pyarrow", "pydantic", "onnxruntime", "mlflow")
PYTHON = "python"


def here() -> dict[str, str]:
    """Return the versions in this process: Python's as major.minor, and of the PACKAGES that are installed."""
    versions = {PYTHON: ".".join(platform.python_version_tuple()[:2])}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def differing(wanted: Mapping[str, str], found: Mapping[str, str]) -> dict[str, str]:
    """Return package -> "has X, wanted Y" for every pin that is not met ("+cpu" and the like are no difference)."""
    told = {}
    for name, version in wanted.items():
        has = found.get(name) or "none"
        if has.partition("+")[0] != version.partition("+")[0]:
            told[name] = f"has {has}, wanted {version}"
    return told


def check() -> None:
    """Refuse to run a submitted job with other versions than its submitter's; nothing to do outside of one.

    Raises MismatchError.
    """
    stamped = os.environ.get(VARIABLE)
    if not stamped:
        return
    told = differing(json.loads(stamped), here())
    if told:
        got = ", ".join(f"{name} {what}" for name, what in told.items())
        hint = "use an image made from this pyproject.toml (python -m cluster manifest RECIPE --kind image)"
        raise MismatchError("this node's packages are not those of the submitter", got=got, hint=hint)
