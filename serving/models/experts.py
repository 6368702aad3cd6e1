"""Mixture-of-experts without routing in the control flow: the form that exports to ONNX and quantizes whole.

transformers' own forms do not: `eager` exports silently and then fails at other routings, `grouped_mm` not at all, and
`batched_mm` keeps the weights behind a Gather, out of a quantizer's reach.
Shape legend: H hidden size, E experts, A experts per token, I inner width of an expert; ... leading dimensions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class DenseExperts(nn.Module):
    """All experts as two matrix products: every expert sees every token, weighed by 0 where it was not chosen.

    The sum over experts of gate_e * down_e(inner_e) is one product of the weighed inner values, side by side, with all
    down projections, one below the other. E/A of the arithmetic: for a handful of experts, not for a hundred.
    """

    def __init__(self, experts: Any) -> None:
        """Weights of a transformers experts module (`gate_up_proj` [E, 2I, H], `down_proj` [E, H, I], `act_fn`)."""
        super().__init__()
        count, width = experts.num_experts, experts.down_proj.shape[-1]
        both = experts.gate_up_proj.detach().reshape(count, 2, width, -1).transpose(0, 1)
        self.gate_up = nn.Parameter(both.reshape(2 * count * width, -1).contiguous())
        self.down = nn.Parameter(experts.down_proj.detach().transpose(0, 1).reshape(-1, count * width).contiguous())
        self.act, self.width = experts.act_fn, count * width
        self.number = nn.Buffer(torch.arange(count))
        self.owner = nn.Buffer(torch.arange(count).repeat_interleave(width))

    def forward(self, hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """The answer [..., H] to `hidden` [..., H] of the `chosen` experts [..., A] by their `weights` [..., A]."""
        gates = ((chosen[..., None] == self.number).float() * weights[..., None]).sum(-2)
        gate, up = torch.split(nn.functional.linear(hidden, self.gate_up), self.width, -1)
        return nn.functional.linear(self.act(gate) * up * gates[..., self.owner], self.down)


class DenseMoE(nn.Module):
    """A transformers sparse block (`gate`, `experts`) with dense experts; works on any leading dimensions."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.router, self.normed, self.top = block.gate.weight, block.gate.norm_topk_prob, block.gate.top_k
        self.experts = DenseExperts(block.experts)

    def forward(self, hidden: Tensor) -> Tensor:
        """The block's answer [..., H]."""
        weights, chosen = nn.functional.linear(hidden, self.router).softmax(-1).topk(self.top, -1)
        weights = weights / weights.sum(-1, keepdim=True) if self.normed else weights
        return self.experts(hidden, chosen, weights)  # type: ignore[no-any-return]
