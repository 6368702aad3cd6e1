"""Writes a traced network into the file that an engine opens: ONNX by the legacy exporter, or TorchScript.

The legacy exporter folds constants and quantizes without surgery; both trace the same forward pass, so what is proven
for one file holds for the other.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from serving import engines
from serving.bundle.files import Folder
from serving.engines import torch as torch_engine

Axes = Mapping[str, Mapping[int, str]]  # tensor name -> axis -> name of its size
SCRIPT = None  # in place of an operator set: TorchScript instead of ONNX


def write(
    graph: nn.Module, example: tuple[Tensor, ...], stem: Path, names: tuple[Axes, Axes], opset: int | None
) -> None:
    """Trace `graph` with `example` into `stem` + `.onnx` or, where `opset` is SCRIPT, `.pt`; `names` are its inputs and
    outputs in order, each with its dynamic axes. No two sizes of the example may be equal, so that none can stand in
    for another."""
    inputs, outputs = names
    with warnings.catch_warnings(), torch.no_grad():
        # Both tracers say that they are deprecated and report every Python branch on a shape; the check of the bundle
        # against torch (`jobs.packing.checking`) is what proves the trace.
        warnings.simplefilter("ignore")
        if opset is SCRIPT:
            jit: Any = torch.jit
            traced: Any = jit.trace(graph.eval(), example, check_trace=False)
            extra = {torch_engine.INPUTS: json.dumps(list(inputs))}
            jit.save(traced, f"{stem}{torch_engine.FILE}", _extra_files=extra)
            return
        torch.onnx.export(
            graph.eval(), example, f"{stem}.onnx", dynamo=False, opset_version=opset, input_names=list(inputs),
            output_names=list(outputs), dynamic_axes={**inputs, **outputs},
        )  # fmt: skip


def opened(folder: Path, stem: str, opset: int | None) -> engines.Engine:
    """The graph that `write` wrote, on one thread."""
    name = "torch" if opset is SCRIPT else "onnxruntime"
    spec = {"engine": engines.module(name).about(), "threads": 1}
    return engines.open_graph(Folder(folder), stem, spec)
