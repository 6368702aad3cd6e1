"""torch on the CPU: the reference that other engines are measured against (TorchScript, float32 or bfloat16).

No INT8 here: torch's dynamic INT8 costs accuracy and torchao is slower than float32 at batch 1.
"""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from serving.bundle.answer import Array

FILE, NEEDS = ".pt", "torch"
INPUTS = "inputs.json"  # inside the file: names of the inputs in the traced function's order


def about(precision: str = "float32") -> dict[str, Any]:
    """What pins an answer's bits beside the file."""
    import torch

    return {"name": "torch", "version": torch.__version__, "device": "cpu", "precision": precision}


def open_graph(data: bytes, engine: Mapping[str, Any], threads: int) -> Graph:
    """A traced graph (a TorchScript file's bytes); `threads` holds for all of torch in this process."""
    return Graph(data, engine["precision"], threads)


class Graph:
    """One traced function. Products run in bfloat16 where that is the precision; results are float32 either way."""

    def __init__(self, data: bytes, precision: str, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        extra = {INPUTS: ""}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # TorchScript is kept by torch, without new features
            jit: Any = torch.jit
            self.function = jit.load(io.BytesIO(data), map_location="cpu", _extra_files=extra).eval()
        self.inputs: list[str] = json.loads(extra[INPUTS])
        self.half = precision == "bfloat16"

    def __call__(self, feeds: Mapping[str, Array]) -> list[Array]:
        """See `serving.engines.Engine`."""
        import torch

        given = [torch.from_numpy(np.ascontiguousarray(feeds[name])) for name in self.inputs]
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=self.half):
            found = self.function(*given)
        values = found if isinstance(found, tuple) else (found,)
        return [value.float().numpy() if value.is_floating_point() else value.numpy() for value in values]
