"""The layers of a decoder over a key/value cache, for few ONNX nodes: prefill is decode with a past of length 0.

The graphs of a language model and of the Qwen3-Omni thinker differ in what goes in and in which positions come out.

Shape legend: B rows, S new tokens, P cached tokens, X = P + S, H hidden size, K key/value heads, G query heads of each,
D head size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from serving.models.experts import DenseMoE
from serving.models.nodes import joined, reshape, rotate

Rope = tuple[Tensor, Tensor]


class CachedLayers(nn.Module):
    """What both graphs are made of: `text` (a transformers decoder of the Qwen3, Qwen2 or Llama kind), and its head."""

    def __init__(self, text: Any, head: Any, queries: int, keys: int, size: int) -> None:
        super().__init__()
        self.text, self.head = text, head
        self.queries, self.keys, self.groups, self.size = queries, keys, queries // keys, size
        attention = [layer.self_attn for layer in text.layers]
        self.qkv = nn.ModuleList([joined(own.q_proj, own.k_proj, own.v_proj) for own in attention])
        blocks = [layer.mlp for layer in text.layers]
        self.mixers = nn.ModuleList([DenseMoE(own) if hasattr(own, "experts") else own for own in blocks])
        self.normed = hasattr(attention[0], "q_norm")

    def through(self, hidden_BSH: Tensor, rope: Rope, past: tuple[Tensor, ...]) -> tuple[Tensor, list[Tensor]]:
        """The last layer's state [B, S, H] and the grown cache; `past` is k, v per layer, each [B, K, P, D]."""
        hidden, new, old = hidden_BSH, hidden_BSH.shape[1], past[0].shape[2]
        seen_SX = torch.arange(old + new)[None] <= (torch.arange(new) + old)[:, None]
        mask = torch.where(seen_SX, 0.0, -1e9).repeat(self.groups, 1)
        present: list[Tensor] = []
        for number, layer in enumerate(self.text.layers):
            cache = past[2 * number], past[2 * number + 1]
            mixed, *grown = self._attention(number, layer.input_layernorm(hidden), rope, mask, cache)
            hidden = hidden + mixed
            hidden = hidden + self.mixers[number](layer.post_attention_layernorm(hidden))
            present += grown
        return hidden, present

    def _attention(self, number: int, hidden_BSH: Tensor, rope: Rope, mask: Tensor,
                   cache: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """Mixed values [B, S, H] and the grown cache; the G query heads of a key head stand one below the other."""
        own = self.text.layers[number].self_attn
        split = reshape(self.qkv[number](hidden_BSH), 0, 0, -1, self.size).transpose(1, 2)
        query, key, value = torch.split(split, [self.queries, self.keys, self.keys], 1)
        if self.normed:
            query, key = own.q_norm(query), own.k_norm(key)
        query, key = rotate(query, *rope, self.size), rotate(key, *rope, self.size)
        key, value = torch.cat([cache[0], key], 2), torch.cat([cache[1], value], 2)
        stacked = reshape(query, 0, self.keys, -1, self.size)  # [B, K, G * S, D]
        weights = (stacked @ key.transpose(2, 3) * own.scaling + mask).softmax(-1)
        heads = reshape(weights @ value, 0, self.queries, -1, self.size).transpose(1, 2)
        return own.o_proj(reshape(heads, 0, 0, -1)), key, value
