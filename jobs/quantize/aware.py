"""Quantization-aware training: linear layers compute with weights and inputs rounded to INT8 as export will round them,
and learn through the rounding (straight-through estimator; Jacob et al., arXiv 1712.05877, section 3).

torchao does the rounding of linear layers, torch that of convolutional networks (`aware_static`). What is trained and
saved are the float weights: names and shapes are those of the plain network all along, so nothing has to be folded back
but the modules. Token tables stay float here: with a scale per row their error is a tenth of a linear layer's, and
rounding 30,000 rows at every step is not.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from cluster.errors import RecipeError
from cluster.recipe import ExportSection
from jobs.quantize import aware_static

AWARE = ("fast", "exact")  # schemes of export that every network with linear layers can be trained for
CONVOLUTIONS = "static"  # the one of convolutional networks (`aware_static`)


def check(export: ExportSection, at: str, convolutions: bool = False) -> None:
    """Refuse a scheme whose rounding is not known here (of a student of `convolutions`: of these), or torchao that is
    not installed. Raises RecipeError."""
    known = (CONVOLUTIONS,) if convolutions else AWARE
    if export.scheme not in known:
        expected = ", ".join(known)
        raise RecipeError(f"{at}: this export.scheme cannot be trained for", got=export.scheme, expected=expected)
    if not convolutions and importlib.util.find_spec("torchao") is None:
        raise RecipeError(f"{at}: torchao is needed", got="not installed", expected="pip install '.[train]'")


@contextlib.contextmanager
def quantized(network: nn.Module, export: ExportSection | None) -> Iterator[None]:
    """Inside the block every linear layer of `network` rounds to INT8; None: nothing is changed.

    `fast`: weights with a scale per output channel, inputs 8-bit per token. `exact`: weights in blocks of `block_size`;
    layers whose input is no multiple of it stay float. `static`: see `aware_static`.
    """
    if export is None:
        yield
        return
    if export.scheme == CONVOLUTIONS:
        with aware_static.rounding(network):
            yield
        return
    weights, inputs = _configs(export)
    chosen = [
        (owner, name, layer)
        for owner in network.modules()
        for name, layer in owner.named_children()
        if type(layer) is nn.Linear and _fits(layer, export)
    ]
    if not chosen:
        raise RecipeError("quantize: the network has no linear layer that can be rounded", got=type(network).__name__)
    for owner, name, layer in chosen:
        setattr(owner, name, _rounding(layer, inputs, weights).train(layer.training))
    try:
        yield
    finally:
        for owner, name, layer in chosen:  # they share their parameters with what rounded
            setattr(owner, name, layer.train(owner.training))


def _fits(layer: nn.Linear, export: ExportSection) -> bool:
    return export.scheme == "fast" or layer.in_features % export.block_size == 0


def _rounding(layer: nn.Linear, inputs: Any, weights: Any) -> nn.Module:
    from torchao.quantization.qat import FakeQuantizedLinear

    with torch.random.fork_rng(devices=[]):  # its constructor draws weights that are replaced at once
        rounding: nn.Module = FakeQuantizedLinear.from_linear(layer, inputs, weights)
    return rounding


def _configs(export: ExportSection) -> tuple[Any, Any]:
    from torchao.quantization.qat import IntxFakeQuantizeConfig

    if export.scheme == "fast":
        weights = IntxFakeQuantizeConfig(torch.int8, "per_channel", is_symmetric=True)
    else:
        weights = IntxFakeQuantizeConfig(torch.int8, group_size=export.block_size, is_symmetric=True)
    # Export rounds inputs per tensor (fast) or block (exact); a scale per token lies between the two.
    return weights, IntxFakeQuantizeConfig(torch.int8, "per_token", is_symmetric=False)
