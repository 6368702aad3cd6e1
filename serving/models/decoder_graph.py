"""One ONNX graph of a decoder: prefill, decode and scoring at once, written for few nodes over trained weights.

Prefill is decode with a past of length 0. `keep` says at which of the new positions logits are wanted: the last one to
write, all of them to score a given text. Shapes are constants of the graph (see `serving.models.cached`).

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
from serving.models.cached import CachedLayers
from serving.models.nodes import half_turned


class Graph(CachedLayers):
    """Logits [B, N, V] at the kept positions and the grown cache, layer by layer k, v, each [B, K, P + S, D]."""

    def __init__(self, model: Any) -> None:
        """Raises MismatchError for rotary angles that depend on the length (only plain ones are traced)."""
        config = model.config
        kind = config.rope_parameters["rope_type"]
        if kind != "default":
            raise MismatchError("rotary angles cannot be exported", got=kind, expected="rope_type default")
        heads = config.num_attention_heads, config.num_key_value_heads, decoder.head_dim(config)
        super().__init__(model.model, model.lm_head, *heads)
        self.turn = nn.Buffer(torch.cat([self.text.rotary_emb.inv_freq] * 2))
        self.sign = nn.Buffer(half_turned(self.size))

    def forward(self, ids_BS: Tensor, positions_BS: Tensor, keep_N: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        """`past` is k, v per layer, each [B, K, P, D]."""
        angles_BSD = positions_BS[..., None].float() * self.turn
        rope = angles_BSD.cos()[:, None], (angles_BSD.sin() * self.sign)[:, None]
        hidden, present = self.through(self.text.embed_tokens(ids_BS), rope, past)
        return (self.head(self.text.norm(hidden.index_select(1, keep_N))), *present)


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
