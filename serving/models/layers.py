"""What a network's layers compute while it answers: captured by hooks, so that no forward pass is written twice.

Shape legend: B rows, S tokens, W width, N heads, D width of a head.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

# Names that transformers' attention layers give their three projections; a block has one of these sets.
PROJECTIONS = (
    {"query": "query", "key": "key", "value": "value"},
    {"query": "q_proj", "key": "k_proj", "value": "v_proj"},
    {"query": "q_lin", "key": "k_lin", "value": "v_lin"},
)
# Where families of transformers keep their layers, from the outside of our models.
PATHS = (
    "encoder.encoder.layer",
    "encoder.transformer.layer",
    "encoder.layers",
    "model.language_model.layers",
    "model.layers",
)


@dataclass
class Seen:
    """What one layer computed: its output at every call, and its attention's query, key and value [B, S, W]."""

    states: list[Tensor] = field(default_factory=list)
    projections: dict[str, Tensor] = field(default_factory=dict)


@contextlib.contextmanager
def captured(own: Sequence[nn.Module], numbers: Sequence[int], projections: bool = False) -> Iterator[list[Seen]]:
    """Inside the block, what layers `numbers` of the layers `own` compute, in that order; 1 is the first, -1 the last.
    Gradients flow through what is captured.

    Raises ValueError for a number that no layer has, or a layer without query, key and value.
    """
    seen = [Seen() for _ in numbers]
    with contextlib.ExitStack() as hooks:
        for number, kept in zip(numbers, seen, strict=True):
            block = own[place(number, len(own))]
            hooks.enter_context(_hooked(block, kept.states.append))
            for name, module in projections_of(block).items() if projections else ():
                hooks.enter_context(_hooked(module, _keep(kept.projections, name)))
        yield seen


def blocks(model: Any) -> Sequence[nn.Module]:
    """The layers of a transformer in order. Raises ValueError where they are not found."""
    for path in PATHS:
        found: Any = model
        for name in path.split("."):
            found = getattr(found, name, None)
        if isinstance(found, nn.ModuleList):
            return list(found)
    raise ValueError(f"no_layers: {type(model).__name__} keeps its layers in none of {', '.join(PATHS)}")


def place(number: int, layers: int) -> int:
    """The index of a layer number among `layers`. Raises ValueError where there is none."""
    if not 1 <= abs(number) <= layers:
        raise ValueError(f"no_layer: layer {number} of a network that has {layers}")
    return number - 1 if number > 0 else layers + number


def projections_of(block: nn.Module) -> dict[str, nn.Module]:
    """The modules that compute query, key and value of a layer. Raises ValueError where they are not found."""
    named = {name.rpartition(".")[2]: module for name, module in block.named_modules()}
    for names in PROJECTIONS:
        if set(names.values()) <= set(named):
            return {name: named[own] for name, own in names.items()}
    raise ValueError(f"no_attention: {type(block).__name__} has no query, key and value")


def attention(projections: dict[str, Tensor], heads: int, mask_BS: Tensor) -> Tensor:
    """softmax(Q K^T / sqrt(D)) over the keys that `mask_BS` (bool, real tokens) keeps, float32 [B, N, S, S]."""
    query_BNSD, key_BNSD = (
        projections[name].view(*mask_BS.shape, heads, -1).transpose(1, 2).float() for name in ("query", "key")
    )
    scores_BNSS = query_BNSD @ key_BNSD.transpose(-1, -2) / query_BNSD.shape[-1] ** 0.5
    return torch.softmax(scores_BNSS.masked_fill(~mask_BS[:, None, None, :], float("-inf")), -1)


def _keep(into: dict[str, Tensor], name: str) -> Any:
    return lambda value: into.__setitem__(name, value)


@contextlib.contextmanager
def _hooked(module: nn.Module, keep: Any) -> Iterator[None]:
    def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
        keep(output[0] if isinstance(output, tuple) else output)

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
