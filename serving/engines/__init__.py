"""Engines that run a bundle's graphs, by the name that `export.engine` gives: numpy arrays by name in, a list out.

An engine is one file here with `FILE` (how its graph files end), `NEEDS` (what must be installed) and `open_graph`.
These files are copied into every bundle, so they import nothing but the engine, numpy and `serving.bundle`.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, Protocol

from serving.bundle.answer import Array, BundleError
from serving.bundle.files import Source

ENGINES: Mapping[str, str] = {
    "onnxruntime": "serving.engines.onnxruntime",
    "openvino": "serving.engines.openvino",
    "torch": "serving.engines.torch",
    "tensorrt": "serving.engines.tensorrt",
}


class Engine(Protocol):
    """One opened graph."""

    def __call__(self, feeds: Mapping[str, Array]) -> list[Array]:
        """Outputs in the graph's order; feeds that the graph does not read are left out."""


def module(name: str) -> Any:
    """The module of an engine; imports nothing heavy. Raises BundleError for a name that is none."""
    if name not in ENGINES:
        raise BundleError(f"bundle.json: engine: got {name!r}, expected one of {', '.join(ENGINES)}")
    return importlib.import_module(ENGINES[name])


def open_graph(source: Source, stem: str, spec: Mapping[str, Any]) -> Engine:
    """Open graph `stem` (`model`, `decoder`, ..) of a bundle with the engine, options and threads its spec pins.

    Raises BundleError naming the file when the engine is not installed or cannot open it.
    """
    own = spec["engine"]
    engine = module(own["name"])
    file = stem + engine.FILE
    data = source.read(file)
    try:
        opened: Engine = engine.open_graph(data, own, spec["threads"])
    except ImportError as error:
        raise BundleError(f"{file}: engine {own['name']} is not installed ({error}); needs {engine.NEEDS}") from error
    except Exception as error:  # engines raise bare Exception; whatever it was, this bundle is not served
        what = " ".join(str(error).split())[:300]
        raise BundleError(f"{file}: engine {own['name']} cannot open it ({what})") from error
    return opened
