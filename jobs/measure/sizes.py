"""How large a model is: parameters, bytes on disk, and bytes a token keeps in its key/value cache."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn


def parameters(network: nn.Module) -> tuple[int, int]:
    """Parameters (count, shared ones once), and those that are neither an embedding table nor the vocabulary's head."""
    tables = {id(module.weight) for module in network.modules() if isinstance(module, nn.Embedding)}
    tables |= {id(value) for name, value in network.named_parameters() if name.endswith("lm_head.weight")}
    every = list(network.parameters())
    return sum(p.numel() for p in every), sum(p.numel() for p in every if id(p) not in tables)


def kv_bytes_per_token(bundle: Mapping[str, Any]) -> int | None:
    """Bytes one token keeps in the float32 cache of an exported decoder: 2 x layers x KV heads x head size x 4.

    `bundle` is its `bundle.json`; null for a model without a cache.
    """
    if "kv_heads" not in bundle:
        return None
    return int(2 * bundle["layers"] * bundle["kv_heads"] * bundle["head_dim"] * 4)
