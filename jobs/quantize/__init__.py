"""INT8 schemes for an exported float32 ONNX graph, by the name that `export.scheme` gives."""

from collections.abc import Callable, Mapping
from pathlib import Path

from jobs.quantize import exact, fast

# (float32 graph, INT8 graph to write, weights that share one scale)
SCHEMES: Mapping[str, Callable[[Path, Path, int], None]] = {"fast": fast.quantize, "exact": exact.quantize}
