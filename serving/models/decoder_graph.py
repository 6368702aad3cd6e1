"""One ONNX graph of a decoder: prefill, decode and scoring at once, written for few nodes over trained weights.

Prefill is decode with a past of length 0. `keep` says at which of the new positions logits are wanted: the last one to
write, all of them to score a given text. Shapes are constants of the graph (see `serving.models.omni_graphs`).

Shape legend: B rows, S new tokens, P cached tokens, N kept positions, V vocabulary, K key/value heads, G query heads of
each, D head size.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cluster.errors import MismatchError
from serving.models import decoder, tracing
from serving.models.experts import DenseMoE
from serving.models.omni_graphs import half_turned, joined, reshape, rotate


class Graph(nn.Module):
    """Logits [B, N, V] at the kept positions and the grown cache, layer by layer k, v, each [B, K, P + S, D]."""

    def __init__(self, model: Any) -> None:
        """Raises MismatchError for rotary angles that depend on the length (only plain ones are traced)."""
        super().__init__()
        config = model.config
        kind = config.rope_parameters["rope_type"]
        if kind != "default":
            raise MismatchError("rotary angles cannot be exported", got=kind, expected="rope_type default")
        self.text, self.head = model.model, model.lm_head
        self.queries, self.keys = config.num_attention_heads, config.num_key_value_heads
        self.groups, self.size = self.queries // self.keys, decoder.head_dim(config)
        attention = [layer.self_attn for layer in self.text.layers]
        self.qkv = nn.ModuleList([joined(own.q_proj, own.k_proj, own.v_proj) for own in attention])
        blocks = [layer.mlp for layer in self.text.layers]
        self.mlps = nn.ModuleList([DenseMoE(own) if hasattr(own, "experts") else own for own in blocks])
        self.normed = hasattr(attention[0], "q_norm")
        self.turn = nn.Buffer(torch.cat([self.text.rotary_emb.inv_freq] * 2))
        self.sign = nn.Buffer(half_turned(self.size))

    def forward(self, ids_BS: Tensor, positions_BS: Tensor, keep_N: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        """`past` is k, v per layer, each [B, K, P, D]."""
        hidden = self.text.embed_tokens(ids_BS)
        angles_BSD = positions_BS[..., None].float() * self.turn
        rope = angles_BSD.cos()[:, None], (angles_BSD.sin() * self.sign)[:, None]
        new, old = ids_BS.shape[1], past[0].shape[2]
        seen_SX = torch.arange(old + new)[None] <= (torch.arange(new) + old)[:, None]
        mask = torch.where(seen_SX, 0.0, -1e9).repeat(self.groups, 1)
        present: list[Tensor] = []
        for number, layer in enumerate(self.text.layers):
            cache = past[2 * number], past[2 * number + 1]
            mixed, *grown = self._attention(number, layer.input_layernorm(hidden), rope, mask, cache)
            hidden = hidden + mixed
            hidden = hidden + self.mlps[number](layer.post_attention_layernorm(hidden))
            present += grown
        return (self.head(self.text.norm(hidden.index_select(1, keep_N))), *present)

    def _attention(self, number: int, hidden_BSH: Tensor, rope: tuple[Tensor, Tensor], mask: Tensor,
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


def export(model: nn.Module, folder: Path, opset: int | None = 17) -> dict[str, int]:
    """Write graph `decoder` (float32, see `tracing.write`) into an existing folder; the model itself is left as it was.

    Returns what the bundle says about the cache: layers, kv_heads, head_dim (counts).
    """
    own: Any = copy.deepcopy(model).eval().float().cpu()
    config = own.config
    shape = {
        "layers": config.num_hidden_layers, "kv_heads": config.num_key_value_heads,
        "head_dim": decoder.head_dim(config),
    }  # fmt: skip
    rows, new, old = 2, 7, 5  # no two sizes equal, so that none can stand in for another
    cache = torch.zeros(rows, shape["kv_heads"], old, shape["head_dim"])
    steps = torch.arange(old, old + new).expand(rows, new)
    every = range(2 * shape["layers"])
    example = (torch.ones(rows, new, dtype=torch.long), steps, torch.arange(3), *[cache] * len(every))
    inputs = {"input_ids": {0: "B", 1: "S"}, "position_ids": {0: "B", 1: "S"}, "keep": {0: "N"}}
    inputs |= {f"past_{i}": {0: "B", 2: "P"} for i in every}
    outputs = {"logits": {0: "B", 1: "N"}, **{f"present_{i}": {0: "B", 2: "PS"} for i in every}}
    tracing.write(Graph(own), example, folder / "decoder", (inputs, outputs), opset)
    return shape
